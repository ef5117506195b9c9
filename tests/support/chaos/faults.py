"""How each fault is carried out: as steps, each at its time, all on the main thread."""

import signal
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from random import Random
from typing import Any

import redis

from celeriac.embedded.valkey import BROKER_DATABASE
from tests.support.chaos.cluster import Standby
from tests.support.chaos.driver import Driver
from tests.support.chaos.plan import FAULTS, Fault
from tests.support.chaos.processes import signal_all
from tests.support.chaos.system import System

_LOST_ANSWERS = 6
_GARBAGE_ITEMS = 10
_GARBAGE_QUEUES = ("task_execution", "default", "workflows")

Step = Callable[[], bool | None]
"""Something to do; False has it tried again a moment later."""
Steps = Iterable[tuple[float, Step]]
"""Steps with their seconds after the fault's begin."""


@dataclass(slots=True)
class Happening:
    """A fault that was carried out, with the times (`time.time`) of its begin and its end."""

    fault: Fault
    begun: float
    ended: float = float("inf")
    note: str = ""


def steps_of(fault: Fault, system: System, driver: Driver) -> Steps:
    """Return what a fault does, in order."""
    return _STEPS[fault.name](fault, system, driver)


def _kill(fault: Fault, system: System, _: Driver) -> Steps:
    yield 0.0, lambda: system.kill(fault.target)
    yield fault.seconds, lambda: system.start_again(fault.target)


def _kill_child(fault: Fault, system: System, _: Driver) -> Steps:
    def kill() -> None:
        if found := system.children(fault.target):
            child = Random(fault.seed).choice(sorted(found, key=lambda each: each.pid))
            system.note_killed([child.pid])
            signal_all([child], signal.SIGKILL)

    yield 0.0, kill


def _freeze(fault: Fault, system: System, _: Driver) -> Steps:
    stopped: list[Any] = []
    since = time.time()
    yield 0.0, lambda: stopped.extend(system.freeze(fault.target))
    yield fault.seconds, lambda: system.thaw(stopped, since)


def _restart(fault: Fault, system: System, _: Driver) -> Steps:
    yield 0.0, lambda: system.terminate(fault.target)
    yield fault.seconds, lambda: system.start_again(fault.target)


def _kill_postgres(fault: Fault, system: System, _: Driver) -> Steps:
    yield 0.0, system.cluster.kill
    yield fault.seconds, system.cluster.start


def _kill_backend(fault: Fault, system: System, _: Driver) -> Steps:
    yield 0.0, lambda: system.cluster.kill_backend(Random(fault.seed))


def _freeze_postgres(fault: Fault, system: System, _: Driver) -> Steps:
    yield 0.0, system.cluster.freeze
    yield fault.seconds, system.cluster.thaw


def _promote(fault: Fault, system: System, _: Driver) -> Steps:
    """The primary goes, killed or frozen; the standby takes its place after a while.

    Until then clients reach nobody or, as by a name that changed too early, a read-only server.
    """
    cluster, proxy = system.cluster, system.proxy
    chosen = Random(fault.seed)
    killed, read_only = chosen.random() < 0.5, chosen.random() < 0.5
    made: list[Standby] = []

    def lose_primary() -> None:
        standby = cluster.make_standby()
        made.append(standby)
        if killed:
            cluster.kill()
        else:
            cluster.freeze()
        proxy.lead_to(standby.socket if read_only else None)

    def take_over() -> None:
        made[0].promote()
        proxy.lead_to(cluster.socket)
        cluster.retire()

    yield 0.0, lose_primary
    yield fault.seconds, take_over


def _lock_rows(fault: Fault, system: System, _: Driver) -> Steps:
    """A forgotten transaction holds all rows of totals of usage, and of budgets."""
    held = ExitStack()
    rows = ("usage_days", "budget_windows")

    def lock() -> None:
        held.callback(system.cluster.lock_rows(rows))

    yield 0.0, lock
    yield fault.seconds, held.close


def _cut(fault: Fault, system: System, _: Driver) -> Steps:
    """As a pooler that is restarted, three times."""
    for number in range(3):
        yield number * fault.seconds / 2, system.proxy.cut


def _lose_answers(fault: Fault, system: System, _: Driver) -> Steps:
    yield 0.0, lambda: system.proxy.lose(fault.target, _LOST_ANSWERS)
    yield fault.seconds, system.proxy.lose_nothing


def _kill_pooler(fault: Fault, system: System, _: Driver) -> Steps:
    pooler = system.require_pooler()
    yield 0.0, pooler.kill
    yield fault.seconds, pooler.start


def _freeze_pooler(fault: Fault, system: System, _: Driver) -> Steps:
    pooler = system.require_pooler()
    yield 0.0, pooler.freeze
    yield fault.seconds, pooler.thaw


def _kill_valkey(fault: Fault, system: System, _: Driver) -> Steps:
    yield 0.0, system.valkey.kill
    yield fault.seconds, system.valkey.start


def _freeze_valkey(fault: Fault, system: System, _: Driver) -> Steps:
    yield 0.0, system.valkey.freeze
    yield fault.seconds, system.valkey.thaw


def _flush(fault: Fault, system: System, _: Driver) -> Steps:
    def flush() -> None:
        with _broker(system) as client:
            client.flushdb() if fault.target == "broker" else client.flushall()

    yield 0.0, flush


def _garbage(fault: Fault, system: System, _: Driver) -> Steps:
    def push() -> None:
        chosen = Random(fault.seed)
        with _broker(system) as client:
            for item in chosen.sample(GARBAGE, _GARBAGE_ITEMS):
                client.lpush(chosen.choice(_GARBAGE_QUEUES), item)

    yield 0.0, push


def _deploy(fault: Fault, _: System, driver: Driver) -> Steps:
    """Twice: what was submitted in between is still waiting at the second."""
    yield 0.0, lambda: driver.deploy(fault.target)
    yield fault.seconds, lambda: driver.deploy(fault.target)


def _broker(system: System) -> redis.Redis:
    return redis.Redis.from_url(system.valkey.url(BROKER_DATABASE))


_HEADERS = '"lang": "py", "task": "celeriac.tasks.execution.run", "id": "1"'
_PROPERTIES = (
    '"correlation_id": "1", "delivery_mode": 2, "delivery_info": {"exchange": "",'
    ' "routing_key": "task_execution"}, "priority": 0, "body_encoding": "base64",'
    ' "delivery_tag": "chaos-%s"'
)
_ENVELOPE = (
    '{"body": "%s", "content-encoding": "utf-8", "content-type": "%s", "headers": {%s},'
    ' "properties": {%s}}'
)


def _envelope(number: int, body: str, kind: str = "application/json", headers: str = "") -> bytes:
    return (_ENVELOPE % (body, kind, headers or _HEADERS, _PROPERTIES % number)).encode()


GARBAGE = [
    b"",
    b"\x00\xff\xfe garbage",
    b"{",
    b"[]",
    b"null",
    b"42",
    b'"text"',
    b"{}",
    b'{"body": 1, "properties": null}',
    b'{"body": "e30=", "headers": {}, "properties": {}}',
    b"[" * 5_000,
    b'{"body": "' + b"A" * 100_000 + b'"}',
    _envelope(1, "!!not base64!!"),
    _envelope(2, "e30="),
    _envelope(3, "W1tdLCB7fSwge31d"),
    _envelope(4, "W1sieCIsICJ5Il0sIHt9LCB7fV0="),
    _envelope(5, "gASVAAAAAAAAAAA=", "application/x-python-serialize"),
    _envelope(7, "W1tdLCB7fSwge31d", headers='"lang": "py", "task": 7, "id": null'),
]
"""Items of a queue that are no messages of ours: bytes, JSON, and envelopes with a wrong inside.

None names a task that nobody knows: those are set aside, not dropped."""

_STEPS: Mapping[str, Callable[[Fault, System, Driver], Steps]] = {
    "kill_api": _kill,
    "freeze_api": _freeze,
    "restart_api": _restart,
    "kill_worker": _kill,
    "kill_worker_child": _kill_child,
    "freeze_worker": _freeze,
    "restart_worker": _restart,
    "kill_beat": _kill,
    "freeze_beat": _freeze,
    "kill_postgres": _kill_postgres,
    "kill_postgres_backend": _kill_backend,
    "freeze_postgres": _freeze_postgres,
    "promote_replica": _promote,
    "cut_connections": _cut,
    "lock_rows": _lock_rows,
    "lose_answers": _lose_answers,
    "kill_pooler": _kill_pooler,
    "freeze_pooler": _freeze_pooler,
    "kill_valkey": _kill_valkey,
    "freeze_valkey": _freeze_valkey,
    "flush_broker": _flush,
    "garbage": _garbage,
    "deploy_agent": _deploy,
    "deploy_task": _deploy,
}
assert _STEPS.keys() == FAULTS.keys()
