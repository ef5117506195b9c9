"""Schedules that `celery -A celeriac beat` fires, and real workers run."""

import pytest
from sqlalchemy import text

from celeriac.domain.executions.states import Status
from celeriac.domain.executions.triggers import TriggerType
from celeriac.domain.schedules.model import FireStatus, Timing
from celeriac.domain.workflows.states import RunStatus
from celeriac.services.schedules.manage import Schedules
from celeriac.services.schedules.start import Starter, Target
from celeriac.services.schedules.stored import NewSchedule
from tests.support.fleet_workflows import FleetWorkflows
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.requirement("A19"), pytest.mark.requirement("F17")]

_FIRED = text("SELECT count(*) FROM schedule_fires WHERE status = 'started'")


def test_beat_fires_a_task_and_a_workflow(flows: FleetWorkflows) -> None:
    fleet = flows.fleet
    shared, actor = fleet.container, fleet.actor
    schedules = Schedules(shared.database, Starter(shared.submit, flows.runs), shared.dispatch)
    flow = flows.define("scheduled", {"one": {"task": "noop", "with": {"n": "${{ 2 }}"}}})
    targets = {
        "task": Target(fleet.task("noop"), None, {"n": 1}),
        "workflow": Target(None, flow, {}),
    }
    for name, target in targets.items():
        new = NewSchedule(name=name, target=target, timing=Timing(cron="0 * * * *"))
        schedules.create(actor, new)
    with shared.database.autocommit() as connection:
        # the newest hour was missed, and is made up for
        connection.execute(
            text(
                "UPDATE schedules SET next_fire_at = date_trunc('hour', now()),"
                " due_at = date_trunc('hour', now())"
            )
        )
    wait_until(lambda: fleet.scalar(_FIRED) == 2, "beat has fired both")

    (of_task,) = schedules.fires(actor, "task", status=FireStatus.STARTED).items
    assert of_task.execution_id is not None
    done = fleet.wait_status(of_task.execution_id, Status.COMPLETED)
    assert (done.result, done.trigger_type) == ({"n": 1}, TriggerType.SCHEDULED)
    (of_flow,) = schedules.fires(actor, "workflow", status=FireStatus.STARTED).items
    assert of_flow.run_id is not None
    assert flows.ended(of_flow.run_id).status is RunStatus.COMPLETED
    for each in targets:
        schedules.delete(actor, each)
