"""Wrong counters of live runs are corrected, and runs that nothing would advance are woken."""

from collections.abc import Mapping
from typing import Any

import pytest
from structlog.testing import capture_logs

from celeriac.domain.workflows.states import RunStatus
from celeriac.services.workflows.repair import Repair
from tests.support.workflows import FAILS, Flows

pytestmark = pytest.mark.requirement("E3")

STEPS = {
    "each": {
        "task": "each", "map": "input.list", "with": {"x": "${{ item }}"}, "key": "item % 50",
        "on_failure": "continue",
    },
    "all": {"task": "all", "with": {"count": "${{ size(steps.each.results) }}"}},
}  # fmt: skip


def work(_: str, given: Mapping[str, Any]) -> object:
    return FAILS if given.get("x") in (3, 40) else given


def repaired(flows: Flows) -> int:
    return Repair(flows.core.database, flows.advance)(100, older_than=-1)


def test_nothing_is_repaired_at_any_time_of_a_run(flows: Flows) -> None:
    flows.define("below", {"one": {"task": "one"}})
    steps = {**STEPS, "sub": {"workflow": "below", "map": "[1, 2, 3]", "needs": ["each"]}}
    run_id = flows.start(
        flows.define("w", steps, input={"list": "array"}), list=list(range(60))
    )  # fmt: skip
    with capture_logs() as logs:
        while flows.drive(work, most=7):
            assert repaired(flows) == 0
    assert [each for each in logs if each["log_level"] == "error"] == []
    assert flows.ran(run_id).status is RunStatus.COMPLETED
    flows.assert_counted()


@pytest.mark.parametrize(
    "harm",
    [
        "remaining = remaining + 1",
        "remaining = remaining - 1, completed = completed + 1",
        "remaining = remaining + 1, completed = 0",
        "failed = failed + 5",
    ],
)
def test_wrong_counters_are_corrected_and_the_run_ends_as_it_should(
    flows: Flows, harm: str
) -> None:
    run_id = flows.start(
        flows.define("w", STEPS, input={"list": "array"}), list=list(range(60))
    )  # fmt: skip
    flows.drive(work, most=20)
    before = flows.ran(run_id).steps["each"]
    flows.core.execute(f"UPDATE fan_ins SET {harm} WHERE shard IN (0, 3, 8)")
    with capture_logs() as logs:
        assert repaired(flows) == 1
    [said] = [each for each in logs if each["log_level"] == "error"]
    assert (said["event"], said["steps"]) == ("workflow.counters_repaired", ["each"])
    after = flows.ran(run_id).steps["each"]
    numbers = ("remaining", "completed", "failed", "cancelled", "shards_left")
    assert [getattr(after, each) for each in numbers] == [getattr(before, each) for each in numbers]
    assert repaired(flows) == 0
    flows.drive(work)
    ran = flows.ran(run_id)
    assert ran.status is RunStatus.COMPLETED
    assert (ran.steps["each"].completed, ran.steps["each"].failed) == (58, 2)
    flows.assert_counted()


def test_a_run_that_nothing_would_advance_is_woken(flows: Flows) -> None:
    run_id = flows.start(
        flows.define("w", {"a": {"task": "a"}, "b": {"task": "b", "needs": ["a"]}})
    )
    claim = flows.take()
    assert claim is not None
    flows.core.end(claim, FAILS)
    flows.core.execute("UPDATE step_runs SET due_at = NULL")
    assert repaired(flows) == 1
    assert flows.ran(run_id).status is RunStatus.FAILED
    assert repaired(flows) == 0
    flows.assert_counted()
