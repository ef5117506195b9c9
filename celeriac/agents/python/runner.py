"""The `python` runner: a user's function as an agent.

A coroutine function runs on the worker's event loop, beside hundreds of others. Its soft limit
comes as `asyncio.CancelledError` where it awaits. It can't be killed: one that blocks the loop
holds up its neighbours (their leases live on, renewed by a thread), so blocking work belongs in a
plain function. That runs in a child process with memory and time limits; its soft limit comes as
`SoftTimeLimit`.
"""

import asyncio
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from celeriac.agents.base import check_output
from celeriac.agents.child.environment import child_environment
from celeriac.agents.child.model_calls import Price, unpriced
from celeriac.agents.child.process import ChildCommand
from celeriac.agents.child.run import run_in_child
from celeriac.agents.python import child_main
from celeriac.agents.python.callables import AgentFunction, find_function
from celeriac.agents.python.context import AgentContext
from celeriac.agents.results import encode_result
from celeriac.domain.agent import PythonAgent, RunnerName
from celeriac.domain.errors import AgentMisconfiguredError, PermanentError
from celeriac.domain.outcome import Completed
from celeriac.kit.jsontypes import JsonValue, loads
from celeriac.kit.process import ResourceLimits
from celeriac.services.ports import Job, RunContext

_MEGABYTE = 1024 * 1024


class PythonRunner:
    """Runs functions offered with `@agent`, or of allowed packages.

    `modules` are those packages; `environment` is the worker's own, of which a child sees only
    what `child_environment` lets through. `price` is asked for the model calls that functions tell.
    """

    name: ClassVar[str] = RunnerName.PYTHON
    resumable: ClassVar[bool] = False

    def __init__(
        self,
        *,
        modules: Sequence[str],
        environment: Mapping[str, str],
        price: Price = unpriced,
    ) -> None:
        self._modules = tuple(modules)
        self._environment = environment
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
        function = await self._find(job.agent.function)
        if function.is_coroutine:
            agent_context = AgentContext(job, context, self._price)
            done = Completed(await _run_on_loop(function, job, agent_context))
        else:
            done = await self._run_in_child(job.agent, job, context)
        check_output(done.result, job.output_schema, function.path)
        return done

    async def _find(self, path: str) -> AgentFunction:
        """Find a function once; importing its module may take long, so a thread does it."""
        function = self._functions.get(path)
        if function is None:
            function = await asyncio.to_thread(find_function, path, self._modules)
            self._functions[path] = function
        return function

    async def _run_in_child(self, agent: PythonAgent, job: Job, context: RunContext) -> Completed:
        command = ChildCommand(
            arguments=(sys.executable, "-P", child_main.__file__),
            environment=child_environment(self._environment, agent.environment),
            workdir=context.workdir,
            limits=ResourceLimits(memory=job.limits.memory_mb * _MEGABYTE),
        )
        python = {
            "function": agent.function,
            "allowed_modules": self._modules,
            "sys_path": _module_path(),
        }
        return await run_in_child(command, job, context, {"python": python}, price=self._price)


def _module_path() -> list[str]:
    """Where this process finds modules; the child stands in another directory."""
    return [str(Path(entry).absolute()) for entry in sys.path]


async def _run_on_loop(function: AgentFunction, job: Job, context: AgentContext) -> JsonValue:
    arguments = function.arguments(job.variables, context)
    try:
        value = await function.call(**arguments)
    except (SystemExit, KeyboardInterrupt) as error:
        # Let through, these would end the event loop of every other agent.
        raise PermanentError(f"{function.path} tried to end its process: {error!r}") from error
    return loads(encode_result(value, function.path))
