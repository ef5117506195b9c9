"""Requests from outside start tasks and workflows, which real workers run."""

from collections.abc import Iterator

import pytest
from fastapi.testclient import TestClient

from celeriac.api.app import create_app
from celeriac.domain.executions.states import Status
from celeriac.domain.executions.triggers import TriggerType
from celeriac.domain.workflows.states import RunStatus
from tests.support.api import Asker
from tests.support.fleet_workflows import FleetWorkflows
from tests.support.hooks import Hook

pytestmark = pytest.mark.requirement("A3", "F18")


@pytest.fixture
def admin(flows: FleetWorkflows) -> Iterator[Asker]:
    """The actor of the fleet, at an API in the test's own process."""
    app = create_app(flows.fleet.container)
    with TestClient(app, base_url="http://localhost") as client:
        yield Asker(client, flows.fleet.key())


def test_a_signed_request_is_worked_on_once(flows: FleetWorkflows, admin: Asker) -> None:
    task = flows.task("pick")
    flows.define(
        "from-outside",
        {"a": {"task": "pick", "with": {"value": "${{ input.lead }}"}}},
        input={"type": "object", "properties": {"lead": {"type": "string"}}},
        returns="${{ steps.a.result }}",
    )
    one = Hook(admin, task=task, mapping={"value": "${{ body.lead }}"})
    whole = Hook(admin, task=None, workflow="from-outside", mapping=None)
    body = {"lead": "ACME"}

    answers = [one.send(body, name="msg_1").json() for _ in range(2)]
    runs = [whole.send(body, name="msg_1").json() for _ in range(2)]

    assert answers[0] == answers[1]
    assert runs[0] == runs[1]
    done = flows.fleet.wait_status(answers[0]["execution_id"], Status.COMPLETED)
    assert (done.result, done.trigger_type) == ("ACME", TriggerType.WEBHOOK)
    ran = flows.ended(runs[0]["run_id"])
    assert (ran.status, ran.result) == (RunStatus.COMPLETED, "ACME")
    assert [len(hook.deliveries("accepted")) for hook in (one, whole)] == [1, 1]
