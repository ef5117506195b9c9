"""What says that it is compressed is never unpacked: messages of any transport, and results."""

import bz2
import lzma
import zlib
from collections.abc import Callable, Iterator
from typing import Any
from uuid import uuid4

import pytest
from celery import Celery
from celery.backends.base import COMPRESSED_PAYLOAD_MAGIC
from kombu import Connection, Consumer, Exchange, Producer, Queue, compression
from kombu.exceptions import DecodeError, EncodeError

from celeriac.adapters.celery_queue import CeleryOptions, create_app

_SIZE = 20_000_000

BOMBS: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "gzip": ("application/x-gzip", zlib.compress),
    "gzip by its alias": ("gzip", zlib.compress),
    "bzip2": ("application/x-bz2", bz2.compress),
    "lzma": ("application/x-lzma", lzma.compress),
    "unknown": ("arj", zlib.compress),
}


@pytest.fixture
def app() -> Celery:
    options = CeleryOptions(broker_url="memory://", result_backend="cache+memory://", extra={})
    return create_app(options)


@pytest.fixture(params=BOMBS)
def bomb(request: pytest.FixtureRequest) -> tuple[str, bytes]:
    """A method and what unpacks by it to much more."""
    method, pack = BOMBS[request.param]
    return method, pack(b"[" * _SIZE)


@pytest.fixture
def connection(app: Celery) -> Iterator[Connection]:
    with Connection("memory://") as opened:
        yield opened


def test_a_transport_of_kombu_unpacks_no_message(
    connection: Connection, bomb: tuple[str, bytes]
) -> None:
    method, packed = bomb
    name = str(uuid4())
    queue = Queue(name, Exchange(name), routing_key=name)
    faults: list[tuple[Any, Exception]] = []
    handled: list[Any] = []
    consumer = Consumer(
        connection,
        [queue],
        callbacks=[lambda *message: handled.append(message)],
        on_decode_error=lambda *fault: faults.append(fault),
        accept=["json"],
    )
    with consumer:
        Producer(connection).publish(
            packed,
            routing_key=queue.routing_key,
            exchange=queue.exchange,
            declare=[queue],
            content_type="application/json",
            content_encoding="utf-8",
            headers={"compression": method},
        )
        connection.drain_events(timeout=5)
    ((message, error),) = faults
    assert isinstance(error, DecodeError)
    assert "compressed" in str(error)
    assert message.body == packed
    assert handled == []


def test_a_result_is_not_unpacked(app: Celery, bomb: tuple[str, bytes]) -> None:
    method, packed = bomb
    with pytest.raises(DecodeError, match="compressed"):
        app.backend.decode(COMPRESSED_PAYLOAD_MAGIC + method.encode() + b"\0" + packed)


def test_methods_that_are_registered_later_unpack_nothing_either(app: Celery) -> None:
    compression.register(bytes, bytes, "application/x-later", aliases=["later"])
    with pytest.raises(DecodeError, match="compressed"):
        compression.decompress(b"x", "later")


def test_a_compressed_task_is_refused_when_it_is_sent(app: Celery) -> None:
    with pytest.raises(EncodeError, match=r"shop\.sell asks for the compression 'gzip'"):
        app.send_task("shop.sell", compression="gzip")
    app.send_task("shop.sell", queue="default")


def test_the_setting_for_all_tasks_is_refused_as_well(app: Celery) -> None:
    app.conf.task_compression = "bzip2"
    with pytest.raises(EncodeError, match=r"shop\.sell asks for the compression 'bzip2'"):
        app.send_task("shop.sell", queue="default")
