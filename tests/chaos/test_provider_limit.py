"""A provider's limit, held by three workers together."""

import pytest

from celeriac.domain.agents import LlmAgent
from celeriac.domain.executions.model import SubmitRequest
from celeriac.domain.executions.states import Status, WaitingFor
from celeriac.domain.tasks import TaskSpec
from celeriac.kit.json_types import dumps
from celeriac.services.catalog.agents import Agents
from celeriac.services.catalog.tasks import Tasks
from tests.support.fleet import Fleet
from tests.support.model_server import Exchange, ModelServer
from tests.support.waiting import wait_until

LIMIT = 60
EXECUTIONS = 75


def greet(exchange: Exchange) -> None:
    exchange.answer("Hello")


@pytest.mark.requirement("E6")
def test_sixty_requests_a_minute_are_held_by_three_workers_and_block_no_slot(
    fleet: Fleet,
) -> None:
    with ModelServer({"greet": greet}).running() as server:
        for name in ("w1", "w2", "w3"):
            fleet.worker(
                name,
                slots=4,
                CELERIAC_PROVIDERS=dumps({"test": {"base_url": server.base_url}}),
                CELERIAC_PROVIDER_LIMITS=dumps({"test": {"requests_per_minute": LIMIT}}),
            )
        database = fleet.container.database
        agent = LlmAgent(model="test/model", max_output_tokens=5)
        Agents(database).create(fleet.actor, name="greeter", spec=agent)
        made = Tasks(database).create(
            fleet.actor, name="greet", agent="greeter", spec=TaskSpec(prompt="greet me")
        )
        task = made.id

        fleet.container.submit.batch(fleet.actor, SubmitRequest(task_id=task), [{}] * EXECUTIONS)
        fleet.beat()
        wait_until(
            lambda: (
                len(fleet.ids(Status.COMPLETED)) == LIMIT
                and len(fleet.ids(Status.WAITING)) == EXECUTIONS - LIMIT
            ),
            f"{LIMIT} are done and the others wait",
            within=50,
        )
        assert len(server.received) == LIMIT
        reasons = {fleet.get(each).waiting_for for each in fleet.ids(Status.WAITING)}
        assert reasons == {WaitingFor.PROVIDER_LIMIT}
        others = [fleet.submit(fleet.task("noop")) for _ in range(12)]
        fleet.wait_terminal(others)  # every slot is free for other work
        fleet.assert_consistent()
        assert len(server.received) == LIMIT
