"""Agents and tasks that are changed while executions wait, and workers older than the API."""

from pathlib import Path

import pytest

from celeriac.domain.agents import PythonAgent
from celeriac.domain.budgets import Budget
from celeriac.domain.executions.model import SubmitRequest
from celeriac.domain.executions.states import Status
from celeriac.domain.tasks import TaskSpec
from celeriac.kit.json_types import JsonValue
from celeriac.kit.loop import LoopThread
from celeriac.services.budgets.manage import Budgets
from celeriac.services.catalog.agents import Agents
from celeriac.services.catalog.specs import SpecCache
from celeriac.services.catalog.tasks import Tasks
from celeriac.services.ports import Job, RunContext
from tests.support.core import Core
from tests.support.executing import Worker
from tests.support.memory import MemoryLiveEvents

DELAYED = 12


async def which(job: Job, _context: RunContext) -> JsonValue:
    """Return which version of which agent runs, and with which prompt."""
    assert isinstance(job.agent, PythonAgent)
    return [job.agent_name, job.agent.function, job.prompt]


@pytest.fixture
def worker(core: Core, tmp_path: Path, loop: LoopThread) -> Worker:
    return Worker(core, tmp_path, loop, which)


def python_agent(core: Core, name: str, function: str) -> None:
    spec = PythonAgent(function=function)
    Agents(core.database).create(core.actor, name=name, spec=spec)


@pytest.mark.requirement("F1")
def test_what_is_queued_keeps_its_agent_when_the_task_gets_another(
    core: Core, worker: Worker
) -> None:
    tasks, agents = Tasks(core.database), Agents(core.database)
    old = tasks.get(core.actor, str(core.task))
    request = SubmitRequest(task_id=core.task, delay_seconds=60)
    delayed = [core.submit(core.actor, request).execution_id for _ in range(DELAYED)]
    python_agent(core, f"after-{old.id}", "pkg.mod:after")
    tasks.change(core.actor, str(old.id), agent=f"after-{old.id}", spec=TaskSpec(prompt="New."))
    agents.change(core.actor, old.agent_name, spec=PythonAgent(function="pkg.mod:changed"))
    core.start_afresh()
    new = core.submit(core.actor, SubmitRequest(task_id=core.task)).execution_id
    core.pass_time(61)
    worker.drain()
    worker.run(new)
    assert {core.status(each) for each in [*delayed, new]} == {Status.COMPLETED}
    before = [old.agent_name, "tests.support.fleet_agents:noop", ""]
    assert [core.get(each).result for each in delayed] == [before] * DELAYED
    assert core.get(new).result == [f"after-{old.id}", "pkg.mod:after", "New."]
    core.assert_consistent()


def test_the_budgets_of_an_old_execution_are_those_it_was_submitted_with(core: Core) -> None:
    tasks = Tasks(core.database)
    name = tasks.get(core.actor, str(core.task)).agent_name
    tasks.change(core.actor, str(core.task), spec=TaskSpec(budget=Budget(max_tokens=7)))
    core.start_afresh()
    old = core.pending()
    python_agent(core, f"{name}-2", "pkg.mod:after")
    tasks.change(
        core.actor,
        str(core.task),
        agent=f"{name}-2",
        spec=TaskSpec(budget=Budget(max_tokens=9)),
    )
    budgets = Budgets(core.database, SpecCache(core.database), MemoryLiveEvents())
    assert [each.max_tokens for each in budgets.of_execution(core.actor, old)] == [7]
