"""Limits of workflows: who begins, who waits, who is cancelled, and that every slot comes back."""

from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import Connection

from celeriac.db.workflows import limits as limit_rows
from celeriac.domain.errors import (
    InputInvalidError,
    LimitReachedError,
    WorkflowInvalidError,
)
from celeriac.domain.tasks import Priority
from celeriac.domain.workflows.limits import SlotState
from celeriac.domain.workflows.states import RunStatus
from celeriac.services.workflows.again import ForkRequest
from celeriac.services.workflows.runs import StartRequest
from tests.support.rows_read import rows_read
from tests.support.statements import sent
from tests.support.workflows import FAILS, Flows, settle, statuses

pytestmark = pytest.mark.requirement("F13")

ONE = {"a": {"task": "work"}}
KEY = "input.key"


def limited(
    flows: Flows, name: str = "w", steps: dict[str, Any] | None = None, **limit: Any
) -> UUID:
    """Define a workflow of which one run may run for each key."""
    limits = [{"key": KEY, "max": 1, **limit}]
    return flows.define(name, steps or ONE, input={"key": "string"}, limits=limits)


def test_a_run_over_the_limit_is_pending_and_begins_when_the_other_has_ended(flows: Flows) -> None:
    workflow = limited(flows)
    first, second = (flows.start(workflow, key="k") for _ in range(2))
    other = flows.start(workflow, key="another")
    assert statuses(flows, first, second, other) == ["running", "pending", "running"]
    [limit] = flows.runs.limits(flows.ran(second).run)
    assert (limit.key, limit.max, limit.used, limit.state) == ("k", 1, 1, SlotState.WAITING)
    assert limit.holders == [first]

    flows.drive(most=1)
    assert statuses(flows, first, second) == ["completed", "running"]
    settle(flows)
    assert [kind for kind, _ in flows.ran(second).events()][:2] == ["created", "started"]


def test_the_oldest_begins_first_and_before_it_one_of_a_higher_priority(flows: Flows) -> None:
    workflow = limited(flows)
    runs = [flows.start(workflow, key="k") for _ in range(3)]
    request = StartRequest(workflow, {"key": "k"}, priority=Priority.HIGH)
    runs.append(flows.runs.start(flows.core.actor, request).run_id)
    order = []
    while flows.drive(most=1):
        order += [run for run in runs if flows.ran(run).status.terminal and run not in order]
    assert order == [runs[0], runs[3], runs[1], runs[2]]
    settle(flows)


def test_as_many_run_as_may(flows: Flows) -> None:
    workflow = limited(flows, max=3)
    runs = [flows.start(workflow, key="k") for _ in range(5)]
    assert statuses(flows, *runs) == ["running"] * 3 + ["pending"] * 2
    settle(flows)


@pytest.mark.parametrize("end", ["completed", "failed", "cancelled", "deadline", "undone"])
def test_every_end_of_a_run_gives_its_slot_to_the_next(flows: Flows, end: str) -> None:
    step: dict[str, Any] = {"task": "work", "retry": 0}
    steps: dict[str, Any] = {"a": step}
    if end == "undone":
        steps = {"a": {**step, "undo": "undo"}, "b": {"task": "bad", "needs": ["a"], "retry": 0}}
    workflow = limited(flows, steps=steps)
    first, second = (flows.start(workflow, key="k") for _ in range(2))
    match end:
        case "cancelled":
            flows.runs.cancel(flows.core.actor, first)
        case "deadline":
            flows.core.execute(
                "UPDATE workflow_runs SET deadline_at = now() WHERE id = :id", id=first
            )
            assert flows.advance.overdue(10) == 1
        case "undone":
            flows.drive(lambda name, _: FAILS if name == "bad" else None, most=3)
        case _:
            flows.drive(lambda _name, _given: FAILS if end == "failed" else None, most=1)
    expected = {"deadline": "failed", "undone": "failed"}.get(end, end)
    assert statuses(flows, first, second) == [expected, "running"]
    settle(flows)


def test_a_pending_run_that_is_cancelled_ends_at_once_and_runs_nothing(flows: Flows) -> None:
    steps = {**ONE, "clean": {"task": "clean", "run": "always"}}
    workflow = limited(flows, steps=steps)
    first, second, third = (flows.start(workflow, key="k") for _ in range(3))
    flows.runs.cancel(flows.core.actor, second)
    ran = flows.ran(second)
    assert (ran.status, set(ran.statuses.values())) == (RunStatus.CANCELLED, {"cancelled"})
    assert statuses(flows, first, third) == ["running", "pending"]
    settle(flows)
    assert len(flows.done) == 4


def test_the_deadline_of_a_pending_run_counts_from_its_submission(flows: Flows) -> None:
    limits = [{"key": KEY, "max": 1}]
    workflow = flows.define("w", ONE, input={"key": "string"}, limits=limits, deadline=60)
    first, second = (flows.start(workflow, key="k") for _ in range(2))
    flows.core.execute(
        "UPDATE workflow_runs SET deadline_at = deadline_at - interval '1 minute' WHERE id = :id",
        id=second,
    )
    assert flows.advance.overdue(10) == 1
    ran = flows.ran(second)
    assert (ran.status, ran.run.error_code) == (RunStatus.FAILED, "deadline")
    assert flows.ran(first).status is RunStatus.RUNNING
    settle(flows)


# Policies


def test_cancel_new_refuses_with_the_run_that_has_the_slot(flows: Flows) -> None:
    workflow = limited(flows, policy="cancel_new")
    first = flows.start(workflow, key="k")
    with pytest.raises(LimitReachedError, match=str(first)) as refused:
        flows.start(workflow, key="k")
    assert refused.value.details == {"key": "k", "max": 1, "run_id": str(first)}
    assert flows.core.count("workflow_runs") == 1
    settle(flows)
    assert flows.ran(flows.start(workflow, key="k")).status is RunStatus.RUNNING


def test_cancel_running_begins_after_the_oldest_has_ended(flows: Flows) -> None:
    steps = {**ONE, "clean": {"task": "clean", "run": "always"}}
    workflow = limited(flows, steps=steps, policy="cancel_running")
    first = flows.start(workflow, key="k")
    second = flows.start(workflow, key="k")
    ran = flows.ran(first)
    assert (ran.status, ran.run.cancel_requested_by) == (RunStatus.FINISHING, "limit")
    assert (ran.run.error_code, str(second) in str(ran.run.error_message)) == ("replaced", True)
    assert flows.ran(second).status is RunStatus.PENDING, "the first still cleans up"
    third = flows.start(workflow, key="k")
    assert statuses(flows, second, third) == ["cancelled", "pending"]
    flows.drive(most=1)
    assert statuses(flows, first, third) == ["cancelled", "running"]
    settle(flows)


def test_keep_latest_lets_only_the_newest_wait(flows: Flows) -> None:
    workflow = limited(flows, policy="keep_latest")
    runs = [flows.start(workflow, key="k") for _ in range(4)]
    assert statuses(flows, *runs) == ["running", "cancelled", "cancelled", "pending"]
    superseded = flows.ran(runs[1]).run
    assert superseded.error_code == "superseded"
    assert str(runs[2]) in str(superseded.error_message)
    assert flows.ran(runs[1]).events()[-1][1]["code"] == "superseded"
    settle(flows)
    assert statuses(flows, runs[0], runs[3]) == ["completed", "completed"]


def test_a_retried_compensation_supersedes_nobody(flows: Flows) -> None:
    steps = {
        "a": {"task": "work", "retry": 0, "undo": "undo"},
        "b": {"task": "bad", "needs": ["a"], "retry": 0},
    }
    workflow = limited(flows, steps=steps, policy="keep_latest")
    failed = flows.start(workflow, key="k")
    flows.drive(lambda name, _: FAILS if name in {"bad", "undo"} else None)
    running, waiting = (flows.start(workflow, key="k") for _ in range(2))
    again = flows.runs.retry(flows.core.actor, failed, compensation=True).run_id
    assert statuses(flows, running, waiting, again) == ["running", "pending", "compensating"]
    settle(flows)
    assert flows.ran(waiting).run.cancel_requested_at is None


# What waits holds no slot, unless its limit says so


def test_a_run_that_waits_for_an_approval_gives_its_slot_back_and_goes_on_first(
    flows: Flows,
) -> None:
    steps = {"ask": {"approve": "Go on?"}, "a": {"task": "work", "needs": ["ask"]}}
    workflow = limited(flows, steps=steps)
    asks = flows.start(workflow, key="k")
    plain = limited(flows, "plain")
    second, third = (flows.start(plain, key="k") for _ in range(2))
    assert statuses(flows, asks, second, third) == ["running", "running", "pending"]
    flows.answer(asks, approved=True)
    [limit] = flows.runs.limits(flows.ran(asks).run)
    assert (limit.state, limit.holders) == (SlotState.WAITING, [second])
    assert flows.drive(most=1) == 1
    assert statuses(flows, second, third) == ["completed", "pending"]
    assert flows.drive(most=1) == 1, "the run that was asked goes on first"
    assert statuses(flows, asks, third) == ["completed", "running"]
    settle(flows)


def test_a_limit_of_active_runs_keeps_the_slot_through_an_approval(flows: Flows) -> None:
    workflow = limited(flows, steps={"ask": {"approve": "Go on?"}}, count="active")
    first, second = (flows.start(workflow, key="k") for _ in range(2))
    assert statuses(flows, first, second) == ["running", "pending"]
    flows.answer(first, approved=True)
    assert statuses(flows, first, second) == ["completed", "running"]


@pytest.mark.failure("Q6")
@pytest.mark.parametrize("count", ["running", "active"])
def test_q6_a_parent_does_not_wait_for_a_slot_that_it_has_itself(flows: Flows, count: str) -> None:
    limited(flows, "inner", count=count)
    call = {"workflow": "inner", "with": {"key": "${{ input.key }}"}}
    after = {"task": "work", "needs": ["call"]}
    outer = limited(flows, "outer", {"call": call, "after": after}, count=count)
    runs = [flows.start(outer, key="k") for _ in range(3)]
    settle(flows)
    assert statuses(flows, *runs) == ["completed"] * 3


def test_children_wait_for_their_turn_and_a_refused_one_fails_its_step(flows: Flows) -> None:
    limited(flows, "inner")
    limited(flows, "strict", policy="cancel_new")
    for name in ("inner", "strict"):
        call = {
            "workflow": name, "map": "[1, 2, 3]", "with": {"key": "k"}, "on_failure": "continue",
        }  # fmt: skip
        run_id = flows.start(flows.define(f"outer-{name}", {"call": call}))
        children = sorted(flows.children(run_id), key=lambda each: each.id)
        others = ["pending"] * 2 if name == "inner" else ["cancelled"] * 2
        assert [each.status for each in children] == ["running", *others]
        settle(flows)
        step = flows.ran(run_id).steps["call"]
        assert (step.completed, step.cancelled) == ((3, 0) if name == "inner" else (1, 2))


# Keys


def test_two_limits_of_a_run_are_both_obeyed_and_no_waiting_run_blocks_others(
    flows: Flows,
) -> None:
    """Q13: a run that waits for another key is passed over."""
    limits = [{"key": "'all'", "max": 2}, {"key": KEY, "max": 1}]
    workflow = flows.define("w", ONE, input={"key": "string"}, limits=limits)
    a1, a2, b1, b2 = (flows.start(workflow, key=key) for key in "aabb")
    assert statuses(flows, a1, a2, b1, b2) == ["running", "pending", "running", "pending"]
    flows.runs.cancel(flows.core.actor, b1)
    assert statuses(flows, a2, b2) == ["pending", "running"]
    settle(flows)


def test_runs_that_are_passed_over_need_no_statements_of_their_own(flows: Flows) -> None:
    limits = [{"key": "'all'", "max": 100}, {"key": KEY, "max": 1}]
    workflow = flows.define("w", ONE, input={"key": "string"}, limits=limits)
    counts = []
    for number in range(6):
        for _ in range(2):
            flows.start(workflow, key=f"busy{number}")
        with sent(flows.core.database) as statements:
            begun = flows.start(workflow, key=f"free{number}")
        assert flows.ran(begun).status is RunStatus.RUNNING
        counts.append(sum("run_limits" in each for each in statements))
    assert len(set(counts)) == 1, counts
    settle(flows)


def test_keys_for_which_many_wait_are_counted_once(
    flows: Flows, monkeypatch: pytest.MonkeyPatch
) -> None:
    core, many = flows.core, 60
    limits = [{"key": "'all'", "max": 500}, {"key": "'area'", "max": 400}, {"key": KEY, "max": 1}]
    workflow = flows.define("w", ONE, input={"key": "string"}, limits=limits)
    monkeypatch.setattr(flows.runs, "_begin", lambda _run_id: None)
    for number in range(many):
        flows.start(workflow, key=f"k{number}")
    core.execute(
        "INSERT INTO run_limits (run_id, key, workspace_id, max, policy, count, state, place)"
        " SELECT CAST(md5(run_id || '') AS uuid), key, workspace_id, max, policy, count, 'held',"
        " place FROM run_limits"
    )
    core.execute("ANALYZE run_limits, workflow_runs")

    def find(connection: Connection) -> object:
        workspace = core.actor.workspace_id
        return limit_rows.first_waiting(connection, workspace, "all", without=["none"])

    for plan, rows in rows_read(core.database, find, "run_limits"):
        assert rows < 20 * many, plan


def test_keys_are_shared_by_the_workflows_of_a_workspace(flows: Flows) -> None:
    first, second = (flows.start(limited(flows, name), key="k") for name in ("one", "two"))
    assert statuses(flows, first, second) == ["running", "pending"]
    settle(flows)


def test_a_key_that_can_not_be_computed_refuses_the_submission(flows: Flows) -> None:
    limits = [{"key": "input.of.key", "max": 1}]
    workflow = flows.define("w", ONE, input={"of": "object"}, limits=limits)
    for given in ({}, {"key": None}, {"key": [1]}, {"key": True}, {"key": "k" * 501}):
        with pytest.raises(InputInvalidError) as refused:
            flows.start(workflow, of=given)
        assert refused.value.field == "limits.0.key"
    assert flows.core.count("workflow_runs") == 0
    for number in (1, 1.0):
        flows.start(workflow, of={"key": number})
    assert flows.core.count("run_limits WHERE key = '1'") == 2


def test_a_key_of_what_is_not_known_before_the_run_is_refused(flows: Flows) -> None:
    with pytest.raises(WorkflowInvalidError, match=r"run\.id is no key"):
        flows.define("w", ONE, limits=[{"key": "run.id", "max": 1}])


def test_retries_and_forks_obey_limits(flows: Flows) -> None:
    workflow = limited(flows, steps={"a": {"task": "work", "retry": 0}})
    failed = flows.start(workflow, key="k")
    flows.drive(lambda _name, _given: FAILS)
    running = flows.start(workflow, key="k")
    actor = flows.core.actor
    again = flows.runs.retry(actor, failed).run_id
    forked = flows.runs.fork(actor, failed, ForkRequest(step="a")).run_id
    elsewhere = flows.runs.fork(actor, failed, ForkRequest(step="a", input={"key": "x"})).run_id
    assert statuses(flows, running, again, forked, elsewhere) == [
        "running", "pending", "pending", "running",
    ]  # fmt: skip
    settle(flows)


def test_a_retried_compensation_waits_for_a_slot_before_all_others(flows: Flows) -> None:
    steps = {
        "a": {"task": "work", "retry": 0, "undo": "undo"},
        "b": {"task": "bad", "needs": ["a"], "retry": 0},
    }
    workflow = limited(flows, steps=steps)
    failed = flows.start(workflow, key="k")
    flows.drive(lambda name, _: FAILS if name in {"bad", "undo"} else None)
    first, second = (flows.start(workflow, key="k") for _ in range(2))
    again = flows.runs.retry(flows.core.actor, failed, compensation=True).run_id
    assert statuses(flows, again, first, second) == ["compensating", "running", "pending"]
    flows.done.clear()
    settle(flows)
    assert [name for name, _ in flows.done] == ["work", "bad", "undo", "work", "bad"]


# A process that dies between the commit and what follows


def test_the_keeper_gives_out_slots_that_a_dead_process_left(
    flows: Flows, monkeypatch: pytest.MonkeyPatch
) -> None:
    workflow = limited(flows)
    first = flows.start(workflow, key="k")
    with monkeypatch.context() as dead:
        dead.setattr(flows.runs, "_begin", lambda _run_id: None)
        second = flows.start(workflow, key="k")
        dead.setattr(flows.advance, "_admit", lambda _run_ids: ())
        dead.setattr(flows.advance._limits, "of_keys", lambda *_: [])
        flows.drive()
    assert statuses(flows, first, second) == ["completed", "pending"]
    assert flows.advance.waiting(10) == 1
    assert flows.ran(second).status is RunStatus.RUNNING
    settle(flows)


def test_a_run_that_was_admitted_by_a_process_that_died_goes_on(flows: Flows) -> None:
    workflow = limited(flows)
    first, second = (flows.start(workflow, key="k") for _ in range(2))
    flows.core.execute("UPDATE run_limits SET state = 'held' WHERE run_id = :id", id=second)
    flows.core.execute("DELETE FROM run_limits WHERE run_id = :id", id=first)
    flows.core.execute("UPDATE workflow_runs SET status = 'running' WHERE id = :id", id=second)
    flows.core.execute(
        "UPDATE step_runs SET due_at = now() - interval '1 minute' WHERE run_id = :id", id=second
    )
    assert flows.advance.due(10) == 1
    settle(flows)
    assert statuses(flows, first, second) == ["completed", "completed"]


@pytest.mark.failure("Q9")
def test_q9_the_keeper_reaches_a_free_key_behind_many_full_ones(
    flows: Flows, monkeypatch: pytest.MonkeyPatch
) -> None:
    workflow = limited(flows)
    for number in range(12):
        for _ in range(2):
            flows.start(workflow, key=f"k{number:02}")
    monkeypatch.setattr(flows.runs, "_begin", lambda _run_id: None)
    last = flows.start(workflow, key="last")
    assert flows.ran(last).status is RunStatus.PENDING
    assert [flows.advance.waiting(5) for _ in range(3)] == [0, 0, 1]
    settle(flows)
