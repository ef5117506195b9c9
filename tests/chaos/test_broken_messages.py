"""Items in a queue that are no messages: each is dropped, and the worker works on (H5)."""

import json
from functools import partial
from uuid import UUID

import pytest
import redis
from sqlalchemy import text

from celeriac.domain.executions.states import Status
from tests.support.broken_messages import broken_items, envelope, old_protocol_items
from tests.support.celery_commands import inspect
from tests.support.fleet import Fleet
from tests.support.programs import Program
from tests.support.servers import ValkeyServer
from tests.support.waiting import wait_until

ITEMS = {**broken_items(), **old_protocol_items()}


def _push(valkey: ValkeyServer, item: bytes, queue: str = "task_execution") -> None:
    with redis.Redis.from_url(valkey.url(1)) as broker:
        broker.lpush(queue, item)


def _left(valkey: ValkeyServer, queue: str = "task_execution") -> int:
    with redis.Redis.from_url(valkey.url(1)) as broker:
        return int(broker.llen(queue)) + int(broker.hlen("unacked"))


def _dropped(fleet: Fleet) -> int:
    query = text("SELECT coalesce(max(messages_dropped), 0) FROM workers")
    return int(fleet.scalar(query))


def _has_dropped(worker: Program, count: int) -> bool:
    return len(worker.logged("message.dropped")) >= count


def _works(fleet: Fleet, worker: Program, task: UUID, after: str) -> None:
    done = fleet.submit(task)
    wait_until(
        lambda: worker.exit_code is not None or fleet.get(done).status is Status.COMPLETED,
        f"an execution completes after {after}",
        within=20,
    )
    assert worker.exit_code is None, f"the worker ended by {after}"


@pytest.mark.parametrize("pool", ["threads", "prefork", "solo"])
def test_no_item_and_no_broadcast_stops_a_worker(
    fleet: Fleet, valkey: ValkeyServer, pool: str
) -> None:
    assert len(ITEMS) > 30
    worker = fleet.worker(pool=pool, slots=1 if pool == "solo" else 2)
    task = fleet.task("noop")
    _works(fleet, worker, task, "nothing")
    for count, (name, item) in enumerate(ITEMS.items()):
        _push(valkey, item)
        _works(fleet, worker, task, name)
        wait_until(partial(_has_dropped, worker, count + 1), f"{name!r} is dropped", within=20)
    wait_until(lambda: _left(valkey) == 0, "every item is gone from the broker")
    wait_until(lambda: _dropped(fleet) == len(ITEMS), "each was counted")
    told = worker.logged("message.dropped")
    assert all(len(str(line)) < 3000 for line in told), "a log line repeats what was sent"
    if pool != "solo":  # which hears no broadcasts
        _broadcast_items(valkey, worker)
        _works(fleet, worker, task, "broadcasts")
        assert inspect(fleet, "ping") == {"ok": "pong"}


def _broadcast_items(valkey: ValkeyServer, worker: Program) -> None:
    """Send the items where workers hear broadcasts, and answers to them."""
    with redis.Redis.from_url(valkey.url(1)) as broker:
        (topic,) = {name for name in broker.pubsub_channels() if b"pidbox" in name} or {
            b"/1.celery.pidbox"
        }
        for name, item in ITEMS.items():
            if len(item) < 1_000_000:
                broker.publish(topic, item)
                broker.publish("/1.nobody", item)
                assert worker.exit_code is None, name


def test_unreadable_entries_do_not_hold_up_the_redelivery_of_others(
    fleet: Fleet, valkey: ValkeyServer
) -> None:
    """kombu keeps what is not acknowledged in a hash; anybody may write there as well."""
    worker = fleet.worker()
    task = fleet.task("noop")
    good = json.dumps([envelope(), "", "task_execution"]).encode()
    entries = {
        "garbage": b"garbage", "bytes": b"\xff", "number": b"5", "short": b"[1]",
        "no object": json.dumps([5, "", "task_execution"]).encode(),
        "no headers": json.dumps([{"headers": None}, "", "task_execution"]).encode(),
        "exchange a list": json.dumps([envelope(), [1], "task_execution"]).encode(),
        "good": good,
    }  # fmt: skip
    with redis.Redis.from_url(valkey.url(1)) as broker:
        for place, (tag, entry) in enumerate(entries.items()):
            broker.hset("unacked", tag, entry)
            broker.zadd("unacked_index", {tag: 100 - place})  # the good one is looked at last
        wait_until(lambda: broker.hlen("unacked") == 0, "all are gone from the hash")
    wait_until(lambda: _ran(worker, "celeriac.tasks.monitoring.ping"), "the good one was run")
    _works(fleet, worker, task, "unreadable entries")


def _ran(worker: Program, name: str) -> bool:
    return any(line.get("task_name") == name for line in worker.logged("celery.task_success"))
