"""How many statements a step costs: as many for each, and one for an item besides its execution."""

import pytest

from celeriac.domain.workflows.states import RunStatus
from celeriac.services.executions import dispatch
from tests.support.core import Core
from tests.support.statements import sent
from tests.support.workflows import Flows

pytestmark = pytest.mark.requirement("E3")

OF_AN_EXECUTION = 3
"""One makes it, one claims it, one ends it."""

OF_THE_TEST = 1
"""`Flows.take` renews the lease of its worker before each claim."""


@pytest.fixture
def flows(core: Core, monkeypatch: pytest.MonkeyPatch) -> Flows:
    """Workflows whose caches are warm, and stay so however slow the machine is."""
    monkeypatch.setattr(dispatch, "_SLOTS_KNOWN_FOR", 3600.0)
    flows = Flows(core)
    chain(flows, 2)
    return flows


def run(flows: Flows, name: str, steps: dict[str, object], **fields: object) -> int:
    """Run a workflow to its end, and return how many statements that was."""
    given = fields.pop("given", {})
    workflow = flows.define(name, steps, **fields)
    with sent(flows.core.database) as statements:
        run_id = flows.start(workflow, **given)  # type: ignore[arg-type]
        flows.drive()
    assert flows.ran(run_id).status is RunStatus.COMPLETED
    return len(statements)


def chain(flows: Flows, length: int) -> int:
    steps: dict[str, object] = {
        f"s{n}": {"task": "work", "needs": [f"s{n - 1}"] if n else []} for n in range(length)
    }
    return run(flows, f"chain-{length}", steps)


def fan_out(flows: Flows, width: int, **step: object) -> int:
    steps: dict[str, object] = {"each": {"task": "work", "map": "input.list", **step}}
    given = {"list": list(range(width))}
    return run(flows, f"map-{width}", steps, input={"list": "array"}, given=given)


def test_a_step_costs_an_execution_and_seventeen_statements(flows: Flows) -> None:
    short, long, longer = (chain(flows, length) for length in (4, 8, 24))
    assert long - short == 4 * (OF_AN_EXECUTION + OF_THE_TEST + 17)
    assert longer - long == 16 * (OF_AN_EXECUTION + OF_THE_TEST + 17)


def test_an_item_of_a_map_costs_its_execution_and_one_statement(flows: Flows) -> None:
    """Those of a map are made together; the test sends a dispatch for every 16 of them."""
    narrow, wide = fan_out(flows, 100), fan_out(flows, 900)
    made_together = OF_AN_EXECUTION - 1
    assert 0 <= wide - narrow - 800 * (made_together + OF_THE_TEST + 1) <= 2 * 800 // 16


def test_a_bounded_item_costs_a_turn_of_its_run(flows: Flows) -> None:
    narrow, wide = fan_out(flows, 20, parallel=5), fan_out(flows, 60, parallel=5)
    assert wide - narrow == 40 * (OF_AN_EXECUTION - 1 + OF_THE_TEST + 8)
