"""The `python` runner: a user's function as an agent.

A coroutine function runs in the worker, on an event loop of its own in a thread of its own. Its
soft limit comes as `asyncio.CancelledError` where it awaits. It can't be killed: one that blocks is
left behind at its hard limit. Work that blocks or needs much memory belongs in a plain function,
which runs in a child process with memory and time limits; its soft limit comes as `SoftTimeLimit`.
"""

import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

from celeriac.agents.base import final_result
from celeriac.agents.child.model_calls import Price, unpriced
from celeriac.agents.child.process import ChildCommand, Confinement
from celeriac.agents.child.run import run_in_child
from celeriac.agents.python import child_main
from celeriac.agents.python.context import AgentContext
from celeriac.agents.python.functions import AgentFunction, find_function
from celeriac.domain.agents import PythonAgent, RunnerName
from celeriac.domain.errors import AgentMisconfiguredError, PermanentError
from celeriac.domain.executions.model import Completed
from celeriac.kit.processes import ResourceLimits
from celeriac.services.ports import Job, RunContext

_MEGABYTE = 1024 * 1024
_PACKAGE = Path(__file__).parents[2]


class PythonRunner:
    """Runs functions of allowed modules.

    `modules` are those, and packages of them; `confinement` bounds what a child process sees, and
    says who it runs as. `price` is asked for the model calls that functions tell.
    """

    name: ClassVar[str] = RunnerName.PYTHON
    resumable: ClassVar[bool] = False
    runs_user_code: ClassVar[bool] = True

    def __init__(
        self,
        *,
        modules: Sequence[str],
        confinement: Confinement,
        price: Price = unpriced,
    ) -> None:
        self._modules = tuple(modules)
        self._confinement = confinement
        self._price = price
        self._functions: dict[str, AgentFunction] = {}

    async def run(self, job: Job, context: RunContext) -> Completed:
        """Call the function and return what it returned.

        Raises AgentMisconfiguredError and VariablesInvalidError before anything of the user's
        runs, OutputInvalidError for a result that doesn't fit the output schema, what the
        function raises, and what `run_in_child` does.
        """
        if not isinstance(job.agent, PythonAgent):
            raise AgentMisconfiguredError(
                f"The agent {job.agent_name} is no python agent.", field="runner"
            )
        function = self._find(job.agent.function)
        if function.is_coroutine:
            agent_context = AgentContext(job, context, self._price)
            done = Completed(await _run_on_loop(function, job, agent_context))
        else:
            done = await self._run_in_child(job.agent, job, context)
        result = await final_result(done.result, job.output_schema, function.path)
        return replace(done, result=result)

    def _find(self, path: str) -> AgentFunction:
        """Find a function once; importing its module may take long, and holds up nobody else."""
        function = self._functions.get(path)
        if function is None:
            function = self._import(path)
            self._functions[path] = function
        return function

    def _import(self, path: str) -> AgentFunction:
        function = find_function(path, self._modules)
        if not function.is_coroutine:
            self._confinement.user.let_through(map(Path, _module_path()))
        return function

    async def _run_in_child(self, agent: PythonAgent, job: Job, context: RunContext) -> Completed:
        command = ChildCommand(
            arguments=(sys.executable, "-P", child_main.__file__),
            environment=self._confinement.environment(agent.environment, home=context.workdir),
            workdir=context.workdir,
            limits=ResourceLimits(memory=job.limits.memory_mb * _MEGABYTE),
            user=self._confinement.user,
            reads=_read_by(agent.function),
        )
        python = {
            "function": agent.function,
            "allowed_modules": (*self._modules, agent.function.partition(":")[0]),
            "sys_path": _module_path(),
        }
        return await run_in_child(command, job, context, {"python": python}, price=self._price)


def _read_by(function: str) -> tuple[Path, ...]:
    """Return what a child must read to import the function's module."""
    name = function.partition(":")[0]
    found = [Path(sys.executable), Path(os.__file__), _PACKAGE, Path(__file__)]
    file = getattr(sys.modules.get(name), "__file__", None)
    if file is not None:
        path = Path(file)
        levels = name.count(".") + 1 + (path.name == "__init__.py")
        found += [path, *path.parents[:levels]]
    return tuple(found)


def _module_path() -> list[str]:
    """Where this process finds modules; the child stands in another directory."""
    return [str(Path(entry).absolute()) for entry in sys.path]


async def _run_on_loop(function: AgentFunction, job: Job, context: AgentContext) -> object:
    arguments = function.arguments(job.variables, context)
    try:
        return await function.call(**arguments)
    except (SystemExit, KeyboardInterrupt) as error:
        raise PermanentError(f"{function.path} tried to end its process: {error!r}") from error
