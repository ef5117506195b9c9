"""The keeper leaves the counters of undo steps alone, whose items have the numbers of others."""

from typing import Any

import pytest

from celeriac.domain.workflows.states import Compensation
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


@pytest.mark.parametrize(
    ("steps", "fields", "given", "work"),
    [
        pytest.param(MAP, NUMBERS, {"list": list(range(8))}, of_map(2, 5), id="failed-items"),
        pytest.param(KEYED, NUMBERS, {"list": [0, 3, 1, 4, 2]}, of_map(), id="shared-keys"),
        pytest.param(REPEAT, {}, {}, failing("end"), id="rounds"),
    ],
)
def test_nothing_is_repaired_at_any_time_of_a_compensation(
    flows: Flows, steps: dict[str, Any], fields: dict[str, Any], given: dict[str, Any], work: Work
) -> None:
    run_id = flows.start(flows.define("w", steps, **fields), **given)
    repair = Repair(flows.core.database, flows.advance)
    while flows.drive(work, most=1):
        assert repair(100, older_than=-1) == 0
    assert any(name.startswith("undo") for name in names(flows))
    assert flows.ran(run_id).run.compensation is Compensation.COMPENSATED
    flows.assert_counted()
