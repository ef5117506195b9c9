"""Counters of undo steps, whose items have the numbers of others, with gaps."""

from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import text

from celeriac.domain.workflows.states import Compensation, RunStatus
from celeriac.services.workflows.repair import Repair
from tests.support.undo import MAP, failing, names, of_map
from tests.support.workflows import Flows, Work

pytestmark = pytest.mark.requirement("E3")

REPEAT: dict[str, dict[str, Any]] = {
    "draft": {
        "task": "draft", "with": {"round": "${{ index }}"},
        "repeat": {"until": "false", "max": 3}, "undo": "undo-draft",
    },
    "end": {"task": "end", "needs": ["draft"]},
}  # fmt: skip
KEYED = {**MAP, "each": {**MAP["each"], "key": "item % 3"}}
NUMBERS = {"input": {"list": "array"}}


@dataclass(frozen=True)
class Case:
    steps: dict[str, Any]
    work: Work
    fields: dict[str, Any] = field(default_factory=dict)
    given: dict[str, Any] = field(default_factory=dict)

    def start(self, flows: Flows) -> UUID:
        return flows.start(flows.define("w", self.steps, **self.fields), **self.given)


CASES = pytest.mark.parametrize(
    "case",
    [
        pytest.param(Case(MAP, of_map(2, 5), NUMBERS, {"list": list(range(8))}), id="failed-items"),
        pytest.param(Case(KEYED, of_map(), NUMBERS, {"list": [0, 3, 1, 4, 2]}), id="shared-keys"),
        pytest.param(Case(REPEAT, failing("end")), id="rounds"),
    ],
)


def counters(flows: Flows) -> list[Any]:
    columns = "step_no, shard, remaining, completed, failed, cancelled"
    with flows.core.database.autocommit() as connection:
        return list(connection.execute(text(f"SELECT {columns} FROM fan_ins ORDER BY 1, 2")))


@CASES
def test_nothing_is_repaired_at_any_time_of_a_compensation(flows: Flows, case: Case) -> None:
    run_id = case.start(flows)
    repair = Repair(flows.core.database, flows.advance)
    while flows.drive(case.work, most=1):
        assert repair(100, older_than=-1) == 0
    assert any(name.startswith("undo") for name in names(flows))
    assert flows.ran(run_id).run.compensation is Compensation.COMPENSATED
    flows.assert_counted()


@CASES
@pytest.mark.parametrize(
    "harm",
    [
        "remaining = remaining + 1",
        "remaining = greatest(remaining - 1, 0), completed = completed + 1",
        "completed = 0",
        "failed = failed + 5",
        "remaining = 0",
    ],
)
def test_wrong_counters_are_corrected_at_any_time_and_all_is_undone(
    flows: Flows, case: Case, harm: str
) -> None:
    run_id = case.start(flows)
    repair = Repair(flows.core.database, flows.advance)
    harmed = 0
    while flows.drive(case.work, most=1):
        if flows.ran(run_id).status is not RunStatus.COMPENSATING:
            continue
        before = counters(flows)
        flows.core.execute(
            f"UPDATE fan_ins f SET {harm} FROM step_runs s WHERE s.run_id = f.run_id"
            " AND s.step_no = f.step_no AND s.status = 'running'"
        )
        harmed += before != counters(flows)
        repair(100, older_than=-1)
        assert counters(flows) == before
        assert repair(100, older_than=-1) == 0
    assert harmed
    assert flows.ran(run_id).run.compensation is Compensation.COMPENSATED
    undone = [str(each) for each in flows.done if each[0].startswith("undo")]
    assert len(undone) == len(set(undone)), "nothing is undone twice"
    flows.assert_counted()
