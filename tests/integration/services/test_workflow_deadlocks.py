"""Runs that wait for each other's slots: the youngest is ended, and the others continue."""

from typing import Any
from uuid import UUID

import pytest

from celeriac.domain.workflows.states import RunStatus
from tests.support.core import Core
from tests.support.workflows import Flows

pytestmark = pytest.mark.requirement("F13")


@pytest.fixture
def flows(core: Core) -> Flows:
    return Flows(core)


def define(flows: Flows, name: str, key: str, below: str = "", **more: Any) -> UUID:
    """Define a workflow whose runs keep the slot of a key; `below` runs in its last step."""
    limit = {"key": f"'{key}'", "max": 1, "count": "active", **more}
    steps: dict[str, Any] = {"first": {"task": "work"}}
    if below:
        steps["then"] = {"workflow": below, "needs": ["first"]}
    return flows.define(name, steps, limits=[limit])


def crossed(flows: Flows, keys: str) -> list[UUID]:
    """Start a run for each key, which then needs a slot of the next one's key below it."""
    for key in keys:
        define(flows, f"in-{key}", key)
    outer = [
        define(flows, f"out-{key}", key, below=f"in-{keys[(place + 1) % len(keys)]}")
        for place, key in enumerate(keys)
    ]
    runs = [flows.start(each) for each in outer]
    flows.drive()
    return runs


def waiting(flows: Flows, run_id: UUID) -> UUID:
    (child,) = flows.children(run_id)
    assert child.status is RunStatus.PENDING
    return child.id


@pytest.mark.parametrize("keys", ["ab", "abc"])
def test_the_youngest_that_waits_is_cancelled_and_the_others_complete(
    flows: Flows, keys: str
) -> None:
    runs = crossed(flows, keys)
    children = [waiting(flows, run_id) for run_id in runs]
    assert flows.advance.waiting(100) == 0, "without the search nothing goes on"

    assert flows.advance.deadlocked(100) == 1
    flows.drive()

    ended = flows.ran(max(children))
    assert (ended.status, ended.run.error_code) == (RunStatus.CANCELLED, "limit_deadlock")
    assert "Runs wait for each other" in (ended.run.error_message or "")
    statuses = [flows.ran(run_id).status for run_id in runs]
    assert sorted(statuses) == [*[RunStatus.COMPLETED] * (len(runs) - 1), RunStatus.FAILED]
    assert flows.advance.deadlocked(100) == 0
    assert flows.core.count("run_limits") == 0
    flows.assert_counted()


def test_several_deadlocks_are_ended_one_after_the_other(flows: Flows) -> None:
    """Also where only one key is looked at in each turn."""
    crossed(flows, "ab")
    crossed(flows, "cd")

    assert sum(flows.advance.deadlocked(1) for _ in range(12)) == 2
    flows.drive()

    assert flows.core.count("run_limits") == 0


def test_who_waits_for_a_run_that_works_or_asks_is_left_alone(flows: Flows) -> None:
    define(flows, "in-a", "a")
    outer = define(flows, "out-b", "b", below="in-a")
    ask = {"ask": {"approve": "Go on?"}}
    limits = [{"key": "'a'", "max": 1, "count": "active"}]
    asks = flows.start(flows.define("asks", ask, limits=limits))
    blocked = flows.start(outer)
    flows.drive()
    waiting(flows, blocked)

    assert flows.advance.deadlocked(100) == 0

    flows.answer(asks, approved=True)
    flows.drive()
    assert flows.ran(blocked).status is RunStatus.COMPLETED


def test_a_second_slot_or_one_that_is_given_back_ends_the_wait(flows: Flows) -> None:
    define(flows, "in-a", "a")
    define(flows, "in-b", "b")
    runs = [
        flows.start(define(flows, "out-a", "a", below="in-b", count="running")),
        flows.start(define(flows, "out-b", "b", below="in-a")),
    ]
    flows.drive()

    assert flows.advance.deadlocked(100) == 0
    assert [flows.ran(run_id).status for run_id in runs] == [RunStatus.COMPLETED] * 2
