"""The `python` runner: users' functions as agents.

A coroutine function runs in the worker, on its own event loop and thread. At its soft limit
`asyncio.CancelledError` is raised where it awaits. It can't be killed: a function that blocks is
abandoned at its hard limit. Work that blocks or needs much memory belongs in a plain function,
which runs in a child process with memory and time limits; at its soft limit `SoftTimeLimit` is
raised.
"""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar

from pydantic import ValidationError

from celeriac.agents.base import home_of, spec_of, writes_of
from celeriac.agents.child import launcher
from celeriac.agents.child.confinement import Confinement
from celeriac.agents.child.process import ChildCommand
from celeriac.agents.child.protocol import MESSAGE, AskMessage, ChildMessage, Request
from celeriac.agents.child.reported_calls import Price, ReportedCalls, unpriced
from celeriac.agents.child.run import SWALLOWED, MessageRelay, describe_work, run_in_child
from celeriac.agents.gateway.loopback import ModelAccess
from celeriac.agents.network.proxy import serving_network
from celeriac.agents.output import final_result
from celeriac.agents.python import child_work
from celeriac.agents.python.context import AgentContext
from celeriac.agents.python.functions import AgentFunction, find_function, is_durable
from celeriac.agents.python.steps import Parking
from celeriac.domain.agents import AgentSpec, PythonAgent, RunnerName
from celeriac.domain.approvals import Answer
from celeriac.domain.errors import AgentMisconfiguredError, InvalidInputError, PermanentError
from celeriac.domain.executions.model import Completed, Parked
from celeriac.kit.json_types import JsonObject, loads, storable
from celeriac.kit.validation import first_fault
from celeriac.services.ports import Job, RunContext

_PACKAGE = Path(__file__).parents[2]
_PACKAGE_DIRECTORIES = frozenset({"site-packages", "dist-packages"})


@dataclass(kw_only=True, eq=False, repr=False)
class PythonRunner:
    """Runs functions of allowed modules.

    `modules` are the allowed modules and packages. `confinement` holds the environment and the user
    of child processes. `price` computes the cost of the model calls that functions report,
    `models` are those that a child process may call at its gateway.
    """

    name: ClassVar[str] = RunnerName.PYTHON
    resumable: ClassVar[bool] = False
    runs_user_code: ClassVar[bool] = True

    modules: Sequence[str]
    confinement: Confinement
    price: Price = unpriced
    models: ModelAccess = field(default_factory=ModelAccess)
    _functions: dict[str, AgentFunction] = field(default_factory=dict, init=False)

    def only_waits(self, agent: AgentSpec) -> bool | None:
        """A coroutine waits; any other function has a child process."""
        function = self._functions.get(agent.function) if isinstance(agent, PythonAgent) else None
        return None if function is None else function.is_coroutine

    async def run(self, job: Job, context: RunContext) -> Completed | Parked:
        """Call the function and return its result, or `Parked` for one that is durable.

        Raises AgentMisconfiguredError and VariablesInvalidError before the function is called,
        OutputInvalidError for a result that doesn't fit the output schema, the errors of the
        function, and those of `run_in_child`.
        """
        agent = spec_of(job, PythonAgent)
        function = self._find(agent.function)
        durable = agent.durable or is_durable(agent.function)
        done: Completed | Parked
        if function.is_coroutine:
            _require_unconfined(agent)
            if job.secrets or job.credentials:
                raise AgentMisconfiguredError(
                    f"{function.path} is a coroutine, which has no environment of its own, so that "
                    "it can't be given secrets. Make it a plain function, which runs in a child "
                    "process, or remove the agent's secrets.",
                    field="secrets",
                )
            done = await _call(function, job, context, self.price, durable=durable)
        else:
            done = await self._run_in_child(agent, job, context, durable=durable)
        if isinstance(done, Parked):
            return done
        result = await final_result(done.result, job.output_schema, function.path)
        return replace(done, result=result)

    def _find(self, path: str) -> AgentFunction:
        """Return a function, imported once; importing its module may take long."""
        if path not in self._functions:
            function = find_function(path, self.modules)
            if not function.is_coroutine:
                self.confinement.user.let_through(map(Path, _module_path()))
            self._functions[path] = function
        return self._functions[path]

    async def _run_in_child(
        self, agent: PythonAgent, job: Job, context: RunContext, *, durable: bool
    ) -> Completed | Parked:
        confinement = await self.confinement.for_agent(agent.confinement)
        environment = confinement.environment(agent.environment, home=home_of(job, context))
        extra: JsonObject = {
            "python": {
                "function": agent.function,
                "allowed_modules": (*self.modules, agent.function.partition(":")[0]),
            },
            "sys_path": _module_path(),
        }
        async with (
            self.models.serving(context) as gateway,
            serving_network(confinement.rules, context, job.credentials) as network,
        ):
            command = ChildCommand(
                arguments=(sys.executable, "-P", launcher.__file__, child_work.__name__),
                environment={
                    **environment,
                    **job.secrets,
                    **gateway.environment,
                    **network.environment(gateway.port),
                },
                workdir=context.workdir,
                user=confinement.user,
                reads=_read_by(agent.function),
                sandbox=confinement.sandbox,
                shows=_shown(agent.function),
                writes=writes_of(job),
                servers=network.ports(gateway.port),
            )
            return await run_in_child(
                command,
                job,
                context,
                extra,
                price=self.price,
                calls=gateway.calls,
                durable=durable,
            )


def _require_unconfined(agent: PythonAgent) -> None:
    """Refuse an agent that must be confined, and is a coroutine of the worker."""
    if agent.confinement.demanded:
        raise AgentMisconfiguredError(
            f"The agent's confinement can't be had: {agent.function} is a coroutine, which runs in "
            "the worker. Make it a plain function, or leave confinement out.",
            field="confinement",
        )


def _read_by(function: str) -> tuple[Path, ...]:
    """Return the files and directories that a child reads to import the function."""
    name = function.partition(":")[0]
    found = [
        Path(sys.executable),
        Path(os.__file__),
        _PACKAGE,
        Path(__file__),
        Path(launcher.__file__),
    ]
    file = getattr(sys.modules.get(name), "__file__", None)
    if file is not None:
        path = Path(file)
        levels = name.count(".") + 1 + (path.name == "__init__.py")
        found += [path, *path.parents[:levels]]
    return tuple(found)


def _shown(function: str) -> tuple[Path, ...]:
    """Return what a confined child sees: this Python, its packages, and the function's own.

    Not the other directories of the module path: one may be the worker's current directory.
    """
    packages = (Path(each) for each in _module_path() if Path(each).name in _PACKAGE_DIRECTORIES)
    found = [Path(sys.prefix), Path(sys.base_prefix), *packages, _PACKAGE]
    module = sys.modules.get(function.partition(":")[0].partition(".")[0])
    file = getattr(module, "__file__", None)
    if file is not None:
        path = Path(file)
        found.append(path.parent if path.name == "__init__.py" else path)
    return tuple(found)


def _module_path() -> list[str]:
    """Return the module path as absolute paths; the child has another current directory."""
    return [str(Path(entry).absolute()) for entry in sys.path]


async def _call(
    function: AgentFunction, job: Job, context: RunContext, price: Price, *, durable: bool
) -> Completed | Parked:
    transport = _InProcess(job, context, price, durable=durable)
    ctx = AgentContext(describe_work(job, context), transport)
    arguments = function.arguments(job.variables, ctx)
    try:
        result = await function.call(**arguments)
    except Parking as parking:
        if not transport.durable.must_wait:
            raise PermanentError(f"{function.path} raised celeriac.Parking itself.") from None
        return transport.durable.parked(more=parking.more)
    except (SystemExit, KeyboardInterrupt) as error:
        raise PermanentError(f"{function.path} tried to end its process: {error!r}") from error
    if transport.durable.must_wait:
        raise PermanentError(SWALLOWED)
    return Completed(result)


class _InProcess:
    """The transport of `AgentContext`: applies the messages of a child process in the worker."""

    def __init__(self, job: Job, context: RunContext, price: Price, *, durable: bool) -> None:
        self._context = context
        calls = ReportedCalls(context, price)
        self._relay = MessageRelay(job, context, calls, durable=durable)
        self.durable = self._relay.durable

    @property
    def workdir(self) -> Path:
        return self._context.workdir

    def time_left(self) -> float:
        return self._context.time_limits.hard_left

    async def send(self, message: JsonObject) -> None:
        await self._relay.apply(_parsed(message))

    def show(self, message: JsonObject) -> None:
        self._context.delta(message["data"])

    async def ask(self, message: JsonObject) -> Answer:
        question = _parsed(message)
        assert isinstance(question, AskMessage)
        answer = await self._relay.ask(question)
        if answer is None:
            raise Parking
        return answer

    async def request(self, message: JsonObject) -> JsonObject:
        call = _parsed(message)
        assert isinstance(call, Request)
        return await self._relay.call(call)


def _parsed(message: JsonObject) -> ChildMessage:
    """Return a message as a child would have sent it; raises TypeError, InvalidInputError."""
    try:
        return MESSAGE.validate_python(loads(storable(message)))
    except ValidationError as error:
        place, fault = first_fault(error)
        field = place.partition(".")[2]  # without the type of the message
        raise InvalidInputError(
            f"ctx can't take this {message['type']}: {field}: {fault}.", field=field
        ) from None
