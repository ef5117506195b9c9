"""Broken events of workers, which anyone who reaches the broker can send, end no worker."""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery
from celery.worker.consumer.gossip import Gossip as CeleryGossip
from kombu import Connection, Consumer, Exchange, Producer
from structlog.testing import capture_logs

from celeriac.worker.consumer import Consumer as OurConsumer
from celeriac.worker.gossip import Gossip

_EVENTS = Exchange("celeryev", type="topic")


@pytest.fixture
def connection() -> Iterator[Connection]:
    with Connection("memory://") as opened:
        yield opened


def _step(connection: Connection, kind: type[CeleryGossip]) -> Any:
    app = Celery(broker="memory://", set_as_current=False)
    timer = SimpleNamespace(call_repeatedly=lambda *_: None)
    consumer = SimpleNamespace(
        app=app, hostname="me@here", connection=connection, timer=timer, pid=1
    )
    step = kind(consumer)
    step.interval = 1
    return step


def _broken(producer: Producer) -> None:
    send = {"exchange": _EVENTS, "routing_key": "worker.heartbeat", "declare": [_EVENTS]}
    text = {"content_type": "application/json", "content_encoding": "utf-8"}
    producer.publish("{not json", **text, **send)
    producer.publish("[1, 2]", **text, **send)
    producer.publish("{}", **text, **send)
    producer.publish("{}", headers={"hostname": "other@there"}, **text, **send)
    producer.publish("{}", headers={"compression": "application/x-bzip2"}, **text, **send)
    producer.publish(
        "{}", exchange=_EVENTS, routing_key="worker.elect", content_type="application/json"
    )
    producer.publish("\xff", content_type="application/x-python-serialize", **send)


def _drain(connection: Connection, step: Any) -> int:
    """Publish broken events and take them all; return how many were published."""
    channel = connection.channel()
    consumers: list[Consumer] = step.get_consumers(channel)
    for consumer in consumers:
        consumer.consume()
    _broken(Producer(connection.channel()))
    for _ in range(7):
        connection.drain_events(timeout=1)
    return 7


def test_broken_events_are_skipped_and_logged(connection: Connection) -> None:
    with capture_logs() as lines:
        assert _drain(connection, _step(connection, Gossip)) == 7
    skipped = [line for line in lines if line["event"] == "gossip.skipped"]
    assert len(skipped) >= 5
    assert all(line["routing_key"].startswith("worker.") for line in skipped)


def test_celerys_own_would_end(connection: Connection) -> None:
    with pytest.raises(Exception, match=r".+"):
        _drain(connection, _step(connection, CeleryGossip))


def test_the_worker_has_this_step_in_place_of_celerys() -> None:
    steps = [str(each) for each in OurConsumer.Blueprint.default_steps]
    assert [each for each in steps if "ossip" in each] == ["celeriac.worker.gossip:Gossip"]
