"""The `command` runner: programs that use the child protocol (docs/command-agents.md)."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar

from celeriac.agents.base import home_of, spec_of, writes_of
from celeriac.agents.child.confinement import Confinement
from celeriac.agents.child.process import ChildCommand
from celeriac.agents.child.reported_calls import Price, unpriced
from celeriac.agents.child.run import run_in_child
from celeriac.agents.gateway.loopback import ModelAccess
from celeriac.agents.network.proxy import serving_network
from celeriac.agents.output import final_result
from celeriac.domain.agents import AgentSpec, CommandAgent, RunnerName
from celeriac.domain.errors import WorkerMisconfiguredError
from celeriac.domain.executions.model import Completed, Parked
from celeriac.services.ports import Job, RunContext

_SETTING = "CELERIAC_COMMANDS"
FEEDBACK = "CELERIAC_FEEDBACK"
"""The variable with the output of the check that has sent a program back."""


@dataclass(kw_only=True, eq=False, repr=False)
class CommandRunner:
    """Runs programs that an administrator allowed.

    `commands` holds the program and its first arguments by name. `confinement` holds the
    environment and the user of the programs. `price` computes the cost of model calls that a
    program reports without one, `models` are those that it may call at its gateway.
    """

    name: ClassVar[str] = RunnerName.COMMAND
    resumable: ClassVar[bool] = False
    runs_user_code: ClassVar[bool] = False

    commands: Mapping[str, Sequence[str]]
    confinement: Confinement
    price: Price = unpriced
    models: ModelAccess = field(default_factory=ModelAccess)

    def only_waits(self, agent: AgentSpec) -> bool:
        """A command is a process."""
        del agent
        return False

    async def run(self, job: Job, context: RunContext) -> Completed | Parked:
        """Run the program; return the value of its `result` message, or `Parked` if it is durable.

        Raises WorkerMisconfiguredError if the command doesn't exist, its program can't be run or
        the worker can't confine it as the agent asks,
        OutputInvalidError for a result that doesn't fit the output schema, PermanentError for a
        result that is too large, and the errors of `run_in_child`.
        """
        agent = spec_of(job, CommandAgent)
        confinement = await self.confinement.for_agent(agent.confinement)
        environment = confinement.environment(agent.environment, home=home_of(job, context))
        if job.feedback is not None:
            environment[FEEDBACK] = job.feedback
        line = self._line(agent.command, environment)
        async with (
            self.models.serving(context) as gateway,
            serving_network(confinement.rules, context, job.credentials) as network,
        ):
            # only files in the administrator's command; the agent's arguments grant no access
            files = tuple(Path(each) for each in line if each.startswith("/"))
            command = ChildCommand(
                arguments=(*line, *agent.arguments),
                environment={
                    **environment,
                    **job.secrets,
                    **gateway.environment,
                    **network.environment(gateway.port),
                },
                workdir=context.workdir,
                user=confinement.user,
                reads=files,
                sandbox=confinement.sandbox,
                shows=tuple(each for each in files if each.is_file()),
                writes=writes_of(job),
                servers=network.ports(gateway.port),
            )
            done = await run_in_child(
                command,
                job,
                context,
                {},
                price=self.price,
                calls=gateway.calls,
                durable=agent.durable,
            )
        if isinstance(done, Parked):
            return done
        source = f"the command {agent.command}"
        return replace(done, result=await final_result(done.result, job.output_schema, source))

    def _line(self, name: str, environment: Mapping[str, str]) -> tuple[str, ...]:
        """Return program and first arguments of a command; the program as an absolute path."""
        if name not in self.commands:
            known = ", ".join(sorted(self.commands)) or "none"
            raise WorkerMisconfiguredError(
                f"There is no command {name!r} on this worker; {_SETTING} has: {known}.",
                field="command",
            )
        program, *arguments = self.commands[name]
        found = shutil.which(program, path=environment.get("PATH", ""))
        if found is None or not Path(found).is_absolute():
            raise WorkerMisconfiguredError(
                f"The program of the command {name!r} can't be run on this worker: {program} "
                f"{_why_not(program)}. Install it there, or correct {_SETTING}.",
                field="command",
            )
        return (found, *arguments)


def _why_not(program: str) -> str:
    path = Path(program)
    if not path.is_absolute():
        return "is not found in an absolute directory of PATH"
    if path.is_dir():
        return "is a directory"
    return "is not executable" if path.exists() else "does not exist"
