"""A worker is killed while a model that has used a tool is asked again."""

import sys
from collections.abc import Iterator

import pytest

from celeriac.domain.agents import LlmAgent, McpServer
from celeriac.domain.executions.states import Status
from celeriac.domain.tasks import TaskSpec
from celeriac.kit.json_types import dumps
from celeriac.services.catalog.agents import Agents
from celeriac.services.catalog.tasks import Tasks
from tests.support.fleet import Fleet
from tests.support.model_scenes import SCENES
from tests.support.model_server import ModelServer
from tests.support.programs import Program
from tests.support.waiting import wait_until

DESK = {"desk": {"command": [sys.executable, "-m", "tests.support.mcp_desk"]}}


@pytest.fixture
def scripted() -> Iterator[ModelServer]:
    with ModelServer(SCENES).running() as server:
        yield server


@pytest.mark.requirement("B13")
def test_a_tool_that_has_answered_is_not_asked_again(fleet: Fleet, scripted: ModelServer) -> None:
    def worker(name: str) -> Program:
        return fleet.worker(
            name,
            CELERIAC_MCP_SERVERS=dumps(DESK),
            CELERIAC_PROVIDERS=dumps({"scripted": {"base_url": scripted.base_url}}),
        )

    database = fleet.container.database
    agent = LlmAgent(model="scripted/model", mcp_servers=(McpServer(name="desk"),))
    Agents(database).create(fleet.actor, name="clerk", spec=agent)
    task = Tasks(database).create(
        fleet.actor, name="work", agent="clerk", spec=TaskSpec(prompt="held")
    )
    fleet.beat()
    first = worker("w1")
    execution = fleet.submit(task.id)
    wait_until(lambda: len(scripted.received) == 2, "the model is asked with the tool's answer")

    first.kill()
    worker("w2")
    (done,) = fleet.wait_terminal([execution])

    assert (done.status, done.result) == (Status.COMPLETED, "noted once")
    assert (done.attempt, done.crash_count) == (2, 1)
    assert len(scripted.received) == 3, "the second attempt began where the first was cut off"
    (notes,) = fleet.home.rglob("notes")
    assert len(notes.read_text().splitlines()) == 1
