"""The commands of a task in its checkout: `setup` before the agent, `verify` after it.

They run what is in the repository, which the agent may have written: so they run as its child
processes do, as the same user, in the same sandbox and with the same memory.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from celeriac.agents.child.confinement import Confinement
from celeriac.agents.child.process import ChildCommand
from celeriac.agents.child.run import LogRelay
from celeriac.agents.network.proxy import serving_network
from celeriac.agents.repository.checkout import LEFT, check_directory
from celeriac.agents.repository.program import run_program
from celeriac.domain.errors import SetupFailedError, VerifyFailedError
from celeriac.domain.executions.events import EventType
from celeriac.domain.repositories import Repository
from celeriac.kit.json_types import storable_text
from celeriac.kit.processes import ResourceLimits
from celeriac.kit.text import clip
from celeriac.kit.words import counted
from celeriac.services.ports import RunContext

_MEGABYTE = 1024 * 1024
_SHOWN_LINES = 200
_SHOWN_CHARACTERS = 16_000
_COMMAND_CHARACTERS = 200
_EVENT_LINES = 20
_EVENT_CHARACTERS = 4_000
"""The end of the output that is kept in the event of a failed check."""


@dataclass(frozen=True, slots=True)
class _Failure:
    """A command that has failed, with the end of its output."""

    line: str
    exit_code: int
    lines: Sequence[str]

    def __str__(self) -> str:
        output = "\n".join(self.lines)[-_SHOWN_CHARACTERS:]
        return f"`{self.name}` exited with {self.exit_code}:\n{output}"

    @property
    def name(self) -> str:
        return clip(self.line, _COMMAND_CHARACTERS)

    @property
    def end(self) -> str:
        """The last lines, as an event has them."""
        return storable_text("\n".join(self.lines[-_EVENT_LINES:])[-_EVENT_CHARACTERS:])


@dataclass(slots=True, eq=False)
class Checks:
    """The commands of one attempt, and how often they have sent the agent back."""

    repository: Repository
    context: RunContext
    confinement: Confinement
    top: Path
    workdir: Path
    home: Path
    environment: Sequence[str] = ()
    memory_mb: int = 1024
    rounds: int = 0
    passed: bool = False
    _logs: LogRelay = field(init=False)

    def __post_init__(self) -> None:
        self._logs = LogRelay(self.context)

    async def prepare(self) -> None:
        """Run `setup`. Raises SetupFailedError for the first command that fails."""
        for line in self.repository.setup:
            failed = await self._run(line, "setup")
            if failed is not None:
                raise SetupFailedError(f"The setup {failed}", command=line)

    async def verify(self) -> str | None:
        """Run `verify`; return feedback for the agent on the first command that fails.

        None if all pass. Raises VerifyFailedError if the agent was sent back often enough. Either
        way a failure is an event of the execution.
        """
        for line in self.repository.verify:
            failed = await self._run(line, "verify")
            if failed is None:
                continue
            sent_back = self.rounds < self.repository.verify_rounds
            await self._emit(failed, sent_back=sent_back)
            if not sent_back:
                often = f" after the agent was sent back {counted(self.rounds, 'time')}"
                raise VerifyFailedError(
                    f"The check{often if self.rounds else ''} {failed}",
                    command=line,
                    rounds=self.rounds,
                )
            self.rounds += 1
            return f"A check of your work failed. Correct the work, then end. The check {failed}"
        self.passed = True
        return None

    async def _emit(self, failed: _Failure, *, sent_back: bool) -> None:
        await self.context.emit(
            EventType.VERIFY_FAILED,
            {
                "command": storable_text(failed.name),
                "exit_code": failed.exit_code,
                "sent_back": sent_back,
                "round": self.rounds + sent_back,
                "rounds": self.repository.verify_rounds,
                "output": failed.end,
            },
        )

    async def _run(self, line: str, source: str) -> _Failure | None:
        """Run a command; return how it has failed, or None."""
        await check_directory(self.top, self.repository, LEFT)
        await self._logs.write(f"$ {clip(line, _COMMAND_CHARACTERS)}", source=source)
        shown: deque[str] = deque(maxlen=_SHOWN_LINES)

        async def on_line(text: str) -> None:
            shown.append(text)
            await self._logs.write(text, source=source)

        confinement = self.confinement
        environment = confinement.environment(self.environment, home=self.home)
        async with serving_network(confinement.rules, self.context) as network:
            command = ChildCommand(
                # both streams in the order in which they are written
                arguments=("/bin/sh", "-c", f"exec 1>&2\n{line}"),
                environment={**environment, **network.environment()},
                workdir=self.workdir,
                limits=ResourceLimits(memory=self.memory_mb * _MEGABYTE),
                user=confinement.user,
                sandbox=confinement.sandbox,
                writes=(self.top, self.home),
                servers=network.ports(),
            )
            done = await run_program(command, on_line=on_line)
        if not done.code:
            return None
        return _Failure(line, done.code, tuple(shown))
