"""Limits of the workspace on runs of a workflow: changed while runs wait and run."""

import threading
from collections.abc import Callable
from functools import partial
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import text

from celeriac.domain.errors import (
    ConflictError,
    InputInvalidError,
    InvalidInputError,
    LimitReachedError,
)
from celeriac.domain.executions.pauses import PauseScope, PauseTarget
from celeriac.domain.limit_policies import LimitOf
from celeriac.domain.workflows.limits import SlotState
from celeriac.domain.workflows.states import RunStatus
from celeriac.domain.workspace_limits import LimitSpec
from celeriac.services.limits import UsedLimit, WorkspaceLimits
from celeriac.services.workflows.limits import admit
from tests.support.core import Core
from tests.support.pauses import REASON, boss, pauses_of
from tests.support.statements import sent
from tests.support.together import together
from tests.support.waiting import wait_until
from tests.support.workflows import FAILS, Flows, settle, statuses
from tests.support.workspace_limits import admin_of, limits_of, walk

pytestmark = pytest.mark.requirement("F13")

KEY = "input.key"
ONE = {"a": {"task": "work", "retry": 0}}


@pytest.fixture
def limits(core: Core) -> WorkspaceLimits:
    return limits_of(core)


def define(
    flows: Flows, name: str = "w", steps: dict[str, Any] | None = None, **fields: Any
) -> UUID:
    return flows.define(name, steps or ONE, input={"key": {"default": None}}, **fields)


def limit(
    flows: Flows, workflow: UUID, name: str = "few", *, key: str | None = KEY, **spec: Any
) -> UsedLimit:
    """Make a limit of the runs of a workflow."""
    wanted = LimitSpec(of=LimitOf.RUNS, key=key, **{"max": 1, **spec})
    return limits_of(flows.core).create(flows.core.actor, name, wanted, workflow_id=workflow)


def test_a_changed_number_holds_at_once_for_runs_that_wait(
    flows: Flows, limits: WorkspaceLimits
) -> None:
    workflow, actor = define(flows), flows.core.actor
    made = limit(flows, workflow)
    runs = [flows.start(workflow, key="k") for _ in range(4)]
    other, without = flows.start(workflow, key="another"), flows.start(workflow)
    assert statuses(flows, *runs) == ["running", "pending", "pending", "pending"]
    assert statuses(flows, other, without) == ["running"] * 2, "without a key it has no limit"
    [shown] = flows.runs.limits(flows.ran(runs[1]).run)
    assert (shown.name, shown.limit_id, shown.key) == ("few", made.id, "limit:few:k")
    assert (shown.max, shown.used, shown.holders) == (1, 1, [runs[0]])

    raised = limits.change(actor, "few", {"max": 3})
    assert (raised.use.held, raised.use.waiting) == (4, 1), "with the run of the other key"
    assert statuses(flows, *runs) == ["running"] * 3 + ["pending"], "without a keeper"
    assert flows.core.count("executions") == 5, "their steps have begun"
    assert flows.runs.limits(flows.ran(runs[3]).run)[0].max == 3

    limits.change(actor, "few", {"max": 1})
    assert statuses(flows, *runs) == ["running"] * 3 + ["pending"], "what runs continues"
    for run_id in runs[:2]:
        flows.runs.cancel(actor, run_id)
        assert flows.advance.waiting(100) == 0, "others still run"
    flows.runs.cancel(actor, runs[2])
    assert flows.ran(runs[3]).status is RunStatus.RUNNING
    settle(flows)


def test_a_deleted_limit_lets_all_begin_and_its_row_goes_with_the_last_that_names_it(
    flows: Flows, limits: WorkspaceLimits
) -> None:
    workflow, core = define(flows), flows.core
    limit(flows, workflow, key=None)
    runs = [flows.start(workflow) for _ in range(3)]
    assert statuses(flows, *runs) == ["running", "pending", "pending"]
    limits.delete(core.actor, "few")
    assert statuses(flows, *runs) == ["running"] * 3
    assert flows.runs.limits(flows.ran(runs[1]).run) == []
    limit(flows, workflow, key=None, max=4)
    fourth, fifth = flows.start(workflow), flows.start(workflow)
    assert statuses(flows, fourth, fifth) == ["running", "pending"], "those of this name count"
    core.execute("UPDATE limits SET look_at = now() WHERE deleted_at IS NOT NULL")
    walk(core)
    assert core.count("limits") == 2, "runs name it"
    settle(flows)
    core.execute("UPDATE limits SET look_at = now() WHERE deleted_at IS NOT NULL")
    walk(core)
    assert core.count("limits") == 1


def test_runs_that_were_submitted_before_neither_wait_nor_count(flows: Flows) -> None:
    limited = [{"key": "'one'", "max": 1}]
    workflow = define(flows, limits=limited)
    first, second = flows.start(workflow, key="k"), flows.start(workflow, key="k")
    limit(flows, workflow)
    walk(flows.core)
    assert flows.core.count("run_limits WHERE limit_id IS NOT NULL") == 0
    third = flows.start(workflow, key="k")
    assert statuses(flows, first, second, third) == ["running", "pending", "pending"]
    assert len(flows.runs.limits(flows.ran(third).run)) == 2, "and that of its document"
    flows.runs.cancel(flows.core.actor, first)
    flows.runs.cancel(flows.core.actor, second)
    assert flows.ran(third).status is RunStatus.RUNNING
    settle(flows)


def test_retries_forks_and_runs_of_steps_have_the_limit_and_share_a_slot_above(
    flows: Flows, limits: WorkspaceLimits
) -> None:
    actor, inner = flows.core.actor, define(flows, "inner")
    steps = {"below": {"workflow": "inner", "with": {"key": "${{ input.key }}"}}}
    outer = define(flows, "outer", steps)
    limit(flows, inner)
    limit(flows, outer, "outers", max=2, count="active")
    first, second, third = (flows.start(outer, key="k") for _ in range(3))
    assert statuses(flows, first, second, third) == ["running", "running", "pending"]
    below = [run.id for each in (first, second) for run in flows.children(each)]
    assert sorted(statuses(flows, *below)) == ["pending", "running"]
    limits.change(actor, "few", {"max": 2})
    assert statuses(flows, *below) == ["running", "running"]
    flows.drive(lambda *_: FAILS)
    assert statuses(flows, first, second, third) == ["failed"] * 3
    held = flows.start(inner, key="k")
    limits.change(actor, "few", {"max": 1})
    again = flows.runs.retry(actor, below[0]).run_id
    assert statuses(flows, held, again) == ["running", "pending"]
    settle(flows)


def test_policies_of_the_limit_hold_for_new_runs(flows: Flows, limits: WorkspaceLimits) -> None:
    workflow, actor = define(flows), flows.core.actor
    limit(flows, workflow, policy="cancel_new")
    first = flows.start(workflow, key="k")
    with pytest.raises(LimitReachedError, match="'limit:few:k' is reached"):
        flows.start(workflow, key="k")
    limits.change(actor, "few", {"policy": "keep_latest"})
    second, third = flows.start(workflow, key="k"), flows.start(workflow, key="k")
    assert statuses(flows, first, second, third) == ["running", "cancelled", "pending"]
    assert flows.ran(second).run.error_code == "superseded"
    settle(flows)


def test_who_may_not_be_limited_is_refused_and_nothing_is_stored(flows: Flows) -> None:
    workflow = define(flows, limits=[{"key": "input.key", "max": 1}])
    limit(flows, workflow, key="input.key.id")
    for key, field in (("limit:few:x", "limits.0.key"), ({"id": [1]}, "limits.0.key")):
        with pytest.raises(InputInvalidError) as refused:
            flows.start(workflow, key=key)
        assert refused.value.field == field
    other = define(flows, "other")
    limit(flows, other, "texts", key="input.key")
    with pytest.raises(InputInvalidError, match="the limit 'texts' must be a text or a number"):
        flows.start(other, key=[1])
    assert flows.core.count("workflow_runs") == 0
    core = flows.core
    for target in (
        PauseTarget(PauseScope.LIMIT, limit_id=limits_of(core).get(core.actor, "few").id),
        PauseTarget(PauseScope.KEY, key="limit:few:x"),
    ):
        with pytest.raises(InvalidInputError, match="can't be paused"):
            pauses_of(core).pause(boss(core), target, REASON)
    for number in range(7):
        limit(flows, workflow, f"l{number}")
    with pytest.raises(ConflictError, match="8 limits"):
        limit(flows, workflow, "one-more")


def test_a_key_of_an_input_that_the_workflow_does_not_have_is_refused(flows: Flows) -> None:
    workflow = flows.define("closed", ONE, input={"service": {"type": "string"}})
    with pytest.raises(InvalidInputError, match="did you mean service") as refused:
        limit(flows, workflow, key="input.servce")
    assert refused.value.field == "key"
    limit(flows, workflow, key="input.service")


def test_a_run_without_limits_costs_no_statement_more(flows: Flows) -> None:
    plain, limited = define(flows), define(flows, "limited")
    counts = []
    for _ in range(2):
        flows.start(plain)
        with sent(flows.core.database) as statements:
            flows.start(plain)
        assert not any("run_limits" in each for each in statements)
        counts.append(len(statements))
        limit(flows, limited, f"limit{len(counts)}")
    assert counts[0] == counts[1]


_WAITS_FOR_A_KEY = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"


@pytest.mark.failure("Q1")
def test_who_waits_for_a_key_counts_by_the_number_that_was_set_meanwhile(
    flows: Flows, limits: WorkspaceLimits
) -> None:
    core, workflow = flows.core, define(flows)
    limit(flows, workflow, max=2)
    first, *waiting = (flows.start(workflow, key="k") for _ in range(4))
    core.execute("DELETE FROM run_limits WHERE run_id = :id", id=first)
    found: list[list[str] | None] = []

    def give() -> None:
        with core.database.transaction() as connection:
            found.append(admit(connection, waiting[2]))

    thread = threading.Thread(target=give)
    with core.database.transaction() as earlier:
        assert admit(earlier, waiting[1]) == []
        thread.start()
        with core.database.autocommit() as connection:
            wait_until(
                lambda: found or connection.execute(text(_WAITS_FOR_A_KEY)).scalar_one(),
                "the other one waits",
            )
        limits.change(admin_of(core), "few", {"max": 1})  # waits for no key
    thread.join(60)
    assert found == [["limit:few:k"]]


@pytest.mark.failure("Q1", "Q5")
def test_ends_and_changes_that_race_never_run_more_and_leave_nobody_waiting(
    flows: Flows, limits: WorkspaceLimits
) -> None:
    """The number goes between 1 and 2 while two runs end at a time."""
    core, actor = flows.core, flows.core.actor
    workflow = define(flows)
    limit(flows, workflow, max=2)
    runs = [flows.start(workflow, key="k") for _ in range(12)]

    def running() -> list[UUID]:
        return [run_id for run_id in runs if flows.ran(run_id).status is RunStatus.RUNNING]

    for most in (1, 2) * 4:
        before = running()
        assert 1 <= len(before) <= 2
        ends: list[Callable[[], object]] = [
            partial(flows.runs.cancel, actor, run_id) for run_id in before
        ]
        together([*ends, partial(limits.change, actor, "few", {"max": most})])
        core.assert_consistent()
        left = [each for each in runs if not flows.ran(each).status.terminal]
        assert len(running()) <= 2
        # the smaller number may come after others were admitted by the larger one
        assert len(running()) >= min(most, len(left)), "nobody waits with a free slot"
    for run_id in runs:
        states = {slot.state for slot in flows.runs.limits(flows.ran(run_id).run)}
        assert states <= {SlotState.HELD, SlotState.WAITING}
    settle(flows)
