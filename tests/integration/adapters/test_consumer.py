"""Celery's consumer with messages of AMQP, as far as that goes without a server."""

import base64
import json
import zlib
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import amqp
import pytest
from kombu.transport import pyamqp
from structlog.testing import capture_logs

from celeriac.adapters.celery_queue import CeleryOptions, create_app
from celeriac.adapters.dropped import dropped_messages
from celeriac.worker.consumer import Consumer
from celeriac.worker.status import ConsumerStatus
from tests.support.broken_messages import broken_items, envelope, old_protocol_items

_TEXT_PROPERTIES = {"content-type": "content_type", "content-encoding": "content_encoding"}


class _Channel:
    """Keeps what became of each message."""

    def __init__(self) -> None:
        self.acknowledged: list[int] = []
        self.requeued: list[int] = []
        self.no_ack_consumers: set[str] = set()

    def basic_ack(self, delivery_tag: int, multiple: bool = False) -> None:
        self.acknowledged.append(delivery_tag)

    def basic_reject(self, delivery_tag: int, requeue: bool) -> None:
        (self.requeued if requeue else self.acknowledged).append(delivery_tag)


class _Cancelled:
    def __init__(self, channel: _Channel) -> None:
        self.channel = channel
        self.queues: list[str] = []

    def cancel_by_queue(self, queue: str) -> None:
        self.queues.append(queue)

    def add_queue(self, _: Any) -> None: ...

    def consume(self) -> None: ...


class _Timer:
    def __init__(self) -> None:
        self.pauses: list[float] = []
        self.work: list[Callable[[], None]] = []

    def call_after(self, seconds: float, _: Any, work: tuple[Callable[[], None]]) -> None:
        self.pauses.append(seconds)
        self.work.extend(work)

    call_at = call_after


class UnderTest:
    """A consumer that is not connected, and what it hands to its pool."""

    def __init__(self) -> None:
        options = CeleryOptions(
            broker_url="amqp://127.0.0.1:1//", result_backend="disabled://", extra={}
        )
        self.app = create_app(options)
        self.app.celeriac = SimpleNamespace(consumer=ConsumerStatus(), give_up=None)
        self.app.loader.import_default_modules()
        self.run: list[str] = []
        self.channel = _Channel()
        self.timer = _Timer()
        controller = SimpleNamespace(
            state=SimpleNamespace(revoked=set()), semaphore=None, use_eventloop=False
        )
        self.consumer = Consumer(
            lambda request: self.run.append(request.id),
            app=self.app,
            pool=SimpleNamespace(num_processes=2, is_green=False, flush=None, apply_async=None),
            timer=self.timer,
            controller=controller,
            hostname="w@here",
        )
        self.consumer.event_dispatcher = None
        self.consumer.task_consumer = self.listening = _Cancelled(self.channel)
        self.consumer.update_strategies()
        self.handle = self.consumer.create_task_handler()
        self._tag = 0

    def receive(self, properties: Any, body: Any, *, queue: str = "task_execution") -> int:
        """Hand over a message as kombu's consumer does; return its delivery tag."""
        self._tag += 1
        raw = amqp.Message(body=body, **properties)
        raw.delivery_info = {"delivery_tag": self._tag, "routing_key": queue, "exchange": "",
                             "consumer_tag": "1", "redelivered": False}  # fmt: skip
        message = pyamqp.Message(raw, channel=self.channel)
        message.accept = {"application/json"}
        if message.errors:
            message._reraise_error(self.consumer.on_decode_error)
        else:
            self.handle(message)
        return self._tag


@pytest.fixture
def under_test() -> UnderTest:
    return UnderTest()


def _amqp(item: bytes) -> tuple[dict[str, Any], Any]:
    """Return properties and body that AMQP would carry of a broken item of Redis."""
    try:
        whole = json.loads(item)
    except (ValueError, RecursionError):
        return {}, item
    if not isinstance(whole, dict):
        return {"content_type": "application/json", "content_encoding": "utf-8"}, item
    properties = {
        name: whole[key]
        for key, name in _TEXT_PROPERTIES.items()
        if isinstance(whole.get(key), str)
    }
    headers = whole.get("headers")
    properties["application_headers"] = headers if isinstance(headers, dict) else {}
    body = whole.get("body")
    try:
        return properties, base64.b64decode(body) if isinstance(body, str) else b""
    except ValueError:
        return properties, body


_ONLY_ON_REDIS = (
    "properties", "delivery_info", "delivery_tag", "no exchange", "routing key", "body encoding",
    "content-type", "content encoding a number", "body null", "body a number", "body a list",
    "headers null", "no headers", "headers a",
)  # fmt: skip
BROKEN = {
    name: item
    for name, item in {**broken_items(), **old_protocol_items()}.items()
    if not any(part in name for part in _ONLY_ON_REDIS)
}


def test_a_task_is_handed_to_the_pool(under_test: UnderTest) -> None:
    properties, body = _amqp(json.dumps(envelope()).encode())
    under_test.receive(properties, body)
    assert under_test.run == [properties["application_headers"]["id"]]
    assert under_test.channel.acknowledged == []


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_no_task_is_acknowledged_and_counted(under_test: UnderTest, name: str) -> None:
    before = dropped_messages.count
    properties, body = _amqp(BROKEN[name])
    tag = under_test.receive(properties, body)
    assert under_test.run == []
    assert under_test.channel.acknowledged == [tag]
    assert dropped_messages.count == before + 1


def test_a_compressed_task_is_dropped_as_it_came(under_test: UnderTest) -> None:
    properties, body = _amqp(json.dumps(envelope()).encode())
    properties["application_headers"]["compression"] = "application/x-gzip"
    packed = zlib.compress(body + b" " * 20_000_000)
    with capture_logs() as logs:
        tag = under_test.receive(properties, packed)
    assert under_test.run == []
    assert under_test.channel.acknowledged == [tag]
    (dropped,) = [line for line in logs if line["event"] == "message.dropped"]
    assert "it is compressed" in dropped["reason"]
    assert dropped["size"] == len(packed), "it was not unpacked"


def test_an_unknown_task_goes_back_and_the_queue_is_left_for_growing_pauses(
    under_test: UnderTest,
) -> None:
    properties, body = _amqp(json.dumps(envelope(task="shop.unheard")).encode())
    for _ in range(12):
        while under_test.timer.work:  # the pause is over
            under_test.timer.work.pop()()
        under_test.receive(properties, body, queue="default")
    assert len(under_test.channel.requeued) == 12
    pauses = under_test.timer.pauses
    assert len(pauses) == 11, "the first goes back at once, to a worker that may know it"
    assert pauses == sorted(pauses)
    assert pauses[-1] == 5.0
    assert under_test.listening.queues == ["default"] * 11
    assert under_test.consumer.open_queues == [
        name for name in under_test.app.amqp.queues.consume_from if name != "default"
    ]


def test_a_body_that_only_others_can_read_is_left_to_them(under_test: UnderTest) -> None:
    properties, _ = _amqp(json.dumps(envelope(task="shop.unheard")).encode())
    properties["content_type"] = "application/x-python-serialize"
    tag = under_test.receive(properties, b"\x80\x04", queue="default")
    assert under_test.channel.requeued == [tag]


def test_a_task_that_the_pool_refuses_goes_back_once(
    under_test: UnderTest,
) -> None:
    def refuse(*_: object) -> None:
        raise RuntimeError("cannot schedule new futures after shutdown")

    under_test.run = SimpleNamespace(append=refuse)  # type: ignore[assignment]
    properties, body = _amqp(json.dumps(envelope()).encode())
    tag = under_test.receive(properties, body)
    assert under_test.channel.requeued == [tag]
