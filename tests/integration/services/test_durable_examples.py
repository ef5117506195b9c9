"""The durable agents of `examples`, as the pages show them."""

import os
import sys
from pathlib import Path

import pytest

from celeriac.agents.command.runner import CommandRunner
from celeriac.agents.python.runner import PythonRunner
from celeriac.domain.agents import CommandAgent, PythonAgent, RunnerName
from celeriac.domain.executions.model import SubmitRequest
from celeriac.domain.executions.states import Status, WaitingFor
from celeriac.domain.tasks import TaskSpec
from celeriac.services.catalog.agents import Agents
from celeriac.services.catalog.tasks import Tasks
from tests.support.confined import confined
from tests.support.durable_bench import Bench
from tests.support.memory import MemoryRunners
from tests.support.programs import REPOSITORY

EXAMPLES = REPOSITORY / "examples"
ORDERS = EXAMPLES / "durable" / "orders.py"


def test_the_page_has_a_part_of_the_file() -> None:
    page = (REPOSITORY / "docs" / "python-agents.md").read_text()
    block = page.split("## Durable functions")[1].split("```python\n")[1].split("```")[0]

    assert block in ORDERS.read_text()


def test_an_order_is_fulfilled(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path, str(ORDERS.parent)])
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(Path.cwd())}
    runner = PythonRunner(modules=("orders",), confinement=confined(environment))
    worker = bench.worker
    worker.use(MemoryRunners({RunnerName.PYTHON: runner}))
    core = bench.core
    tasks = {}
    names = {"fulfil-order": "fulfil_order", "check-stock": "check_stock"}
    for name, function in {**names, "ask-for-review": "ask_for_review"}.items():
        agent = PythonAgent(function=f"orders:{function}")
        Agents(core.database).create(core.actor, name=name, spec=agent)
        tasks[name] = Tasks(core.database).create(
            core.actor, name=name, agent=name, spec=TaskSpec()
        )
    request = SubmitRequest(
        task_id=tasks["fulfil-order"].id, variables={"order": "A1", "lines": ["tea", "milk"]}
    )
    order = core.submit(core.actor, request).execution_id

    bench.work()
    assert core.get(order).waiting_for is WaitingFor.APPROVAL
    core.answer(order)
    bench.work()
    assert core.get(order).waiting_for is WaitingFor.SLEEP
    core.pass_time(86_400)
    core.execute("UPDATE steps SET wake_at = wake_at - interval '1 day'")
    core.resume()
    bench.work()

    done = core.get(order)
    assert done.status is Status.COMPLETED, done.error_message
    assert isinstance(done.result, dict)
    assert done.result["review"] == "A1: five stars"
    assert core.count("executions") == 4
    core.assert_consistent()


@pytest.mark.requirement("F11")
def test_a_program_sleeps_until_the_next_day(bench: Bench) -> None:
    program = [sys.executable, str(EXAMPLES / "command" / "nightly.py")]
    runner = CommandRunner(
        commands={"nightly": program}, confinement=confined({"PATH": os.environ["PATH"]})
    )
    worker, core = bench.worker, bench.core
    worker.use(MemoryRunners({RunnerName.COMMAND: runner}))
    agent = CommandAgent(command="nightly", durable=True)
    Agents(core.database).create(core.actor, name="nightly", spec=agent)
    task = Tasks(core.database).create(
        core.actor, name="nightly", agent="nightly", spec=TaskSpec(prompt="abc")
    )
    execution_id = core.submit(core.actor, SubmitRequest(task_id=task.id)).execution_id

    bench.work()
    assert core.get(execution_id).waiting_for is WaitingFor.SLEEP
    core.pass_time(86_400)
    core.execute("UPDATE steps SET wake_at = wake_at - interval '1 day'")
    core.resume()
    bench.work()

    done = core.get(execution_id)
    assert done.result == [3, 3], done.error_message
    assert core.event_types(execution_id).count("step_completed") == 2
    core.assert_consistent()
