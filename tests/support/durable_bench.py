"""A worker that runs durable functions, for tests."""

import os
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from celeriac.agents.python.runner import PythonRunner
from celeriac.domain.agents import PythonAgent, RunnerName
from celeriac.domain.executions.model import SubmitRequest
from celeriac.domain.tasks import RetryPolicy, TaskSpec
from celeriac.kit.loop import LoopThread
from celeriac.services.catalog.agents import Agents
from celeriac.services.catalog.tasks import Tasks
from tests.support import durable_functions
from tests.support.confined import confined
from tests.support.core import Core
from tests.support.executing import Worker
from tests.support.memory import MemoryRunners

FUNCTIONS = durable_functions.__name__


BOTH = pytest.mark.parametrize("kind", ["", "_in_child"])


SOON = TaskSpec(retry=RetryPolicy(max_retries=3, base_seconds=0.001))


class Bench:
    """A worker that runs durable functions."""

    def __init__(self, core: Core, workdir: Path, loop: LoopThread) -> None:
        self.core = core
        self.log = workdir / "log"
        self._workdir = workdir
        self._loop = loop
        self.worker = self.another_worker()

    def another_worker(self) -> Worker:
        """Return a worker process that knows nothing yet."""

        async def nothing(_job: Any, _context: Any) -> None: ...

        worker = Worker(self.core, self._workdir / "work", self._loop, nothing)
        environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(Path.cwd())}
        runner = PythonRunner(modules=(FUNCTIONS,), confinement=confined(environment))
        worker.use(MemoryRunners({RunnerName.PYTHON: runner}))
        return worker

    def task(self, function: str, spec: TaskSpec | None = None) -> UUID:
        """Store a task of a function, named after it."""
        database, actor = self.core.database, self.core.actor
        agent = PythonAgent(function=f"{FUNCTIONS}:{function}")
        Agents(database).create(actor, name=function, spec=agent)
        made = Tasks(database).create(actor, name=function, agent=function, spec=spec or SOON)
        return made.id

    def submit(self, function: str, *, spec: TaskSpec | None = None, **variables: Any) -> UUID:
        """Submit an execution of a function."""
        task = self.task(function, spec)
        return self.core.submit(
            self.core.actor, SubmitRequest(task_id=task, variables=variables)
        ).execution_id

    def work(self, turns: int = 20) -> int:
        """Run all that is due, also what becomes due by that; return how many attempts."""
        total = 0
        for _ in range(turns):
            done = self.worker.drain()
            while (message := self.core.queue.take("task_execution")) is not None:
                done += self.worker.run(message.message.execution_id)
            total += done
            if not done:
                break
        return total

    def lines(self) -> list[str]:
        """Return the effects, in order."""
        return self.log.read_text().split("\n")[:-1] if self.log.exists() else []
