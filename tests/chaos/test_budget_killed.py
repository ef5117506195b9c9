"""A worker dies in the middle of a model call: what it had reserved is free again."""

import pytest

from celeriac.domain.agents import LlmAgent
from celeriac.domain.budgets import Budget
from celeriac.domain.executions.model import SubmitRequest
from celeriac.domain.executions.options import RunOptions
from celeriac.domain.executions.states import Status
from celeriac.domain.tasks import TaskSpec
from celeriac.kit.json_types import dumps
from celeriac.services.budgets.manage import Budgets
from celeriac.services.catalog.agents import Agents
from celeriac.services.catalog.tasks import Tasks
from tests.support.fleet import Fleet
from tests.support.model_server import Exchange, ModelServer
from tests.support.waiting import wait_until


def hang(exchange: Exchange) -> None:
    """Keep the first request waiting."""
    if exchange.tries == 1:
        exchange.wait_for_leave()
    else:
        exchange.answer("Hello")


@pytest.mark.requirement("E5")
def test_what_a_killed_worker_had_reserved_is_released(fleet: Fleet) -> None:
    with ModelServer({"hang": hang}).running() as server:
        providers = dumps({"test": {"base_url": server.base_url}})
        database, container = fleet.container.database, fleet.container
        agent = LlmAgent(model="test/model", max_output_tokens=5)
        Agents(database).create(fleet.actor, name="greeter", spec=agent)
        made = Tasks(database).create(
            fleet.actor, name="greet", agent="greeter", spec=TaskSpec(prompt="hang on")
        )
        task = made.id
        options = RunOptions(budget=Budget(max_tokens=15))
        first = fleet.worker("w1", CELERIAC_PROVIDERS=providers)
        execution = container.submit(
            fleet.actor, SubmitRequest(task_id=task, options=options)
        ).execution_id
        wait_until(lambda: len(server.received) == 1, "the model was asked", within=30)

        first.kill()
        fleet.beat()
        fleet.lasting_worker("w2", CELERIAC_PROVIDERS=providers)

        done = fleet.wait_terminal([execution])[0]
        assert (done.status, done.crash_count) == (Status.COMPLETED, 1)
        budgets = Budgets(database, container.specs, container.live)
        (own,) = budgets.of_execution(fleet.actor, execution)
        assert (own.spent_tokens, own.reserved_tokens) == (15, 0), (
            "a reservation that stays would have let no other call through"
        )
