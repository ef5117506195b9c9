"""A workflow on real workers of which one is killed in the middle of a map."""

import pytest
from sqlalchemy import text

from celeriac.domain.workflows.model import WorkflowSpec
from celeriac.domain.workflows.states import RunStatus
from celeriac.services.workflows.catalog import Workflows
from celeriac.services.workflows.runs import Runs, StartRequest
from tests.support.fleet import Fleet
from tests.support.waiting import wait_until

WIDTH = 300


@pytest.mark.requirement("E3")
def test_a_map_survives_a_killed_worker_and_its_reduce_starts_once(fleet: Fleet) -> None:
    shared, actor = fleet.container, fleet.actor
    fleet.beat()
    first = fleet.worker("w1")
    names = {}
    for function in ("give", "hold"):
        task = shared.specs.current(fleet.task(function), workspace=actor.workspace_id)
        names[function] = task.task_name
    spec = WorkflowSpec.model_validate(
        {
            "steps": {
                "list": {"task": names["give"], "with": {"count": WIDTH}},
                "each": {
                    "task": names["give"],
                    "map": "steps.list.result",
                    "with": {"count": 1},
                },
                "held": {
                    "task": names["hold"],
                    "with": {"diary": str(fleet.diary), "gate": str(fleet.gate)},
                },
                "all": {
                    "task": names["give"],
                    "with": {"count": "${{ size(steps.each.results) }}"},
                    "needs": ["held"],
                },
            },
            "returns": "${{ size(steps.all.result) }}",
        }
    )
    workflow = Workflows(shared.database).create(actor, name="wide", spec=spec)
    runs = Runs(shared.database, shared.plans, shared.advance)
    run_id = runs.start(actor, StartRequest(workflow.id, {})).run_id
    wait_until(fleet.diary_lines, "one item is held")
    fleet.worker("w2")
    first.kill()
    fleet.open_gate()

    wait_until(lambda: runs.get(actor, run_id).status.terminal, "the run ends", within=120)

    run, steps = runs.get(actor, run_id), {step.step: step for step in runs.steps(run_id)}
    assert (run.status, run.result) == (RunStatus.COMPLETED, WIDTH)
    assert (steps["each"].completed, steps["each"].remaining) == (WIDTH, 0)
    made = text("SELECT count(*) FROM executions WHERE run_id = :id")
    assert fleet.scalar(made, id=run_id) == WIDTH + 3
    fleet.assert_consistent()
