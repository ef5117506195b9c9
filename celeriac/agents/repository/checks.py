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
from celeriac.domain.repositories import Repository
from celeriac.kit.processes import ResourceLimits
from celeriac.kit.text import clip
from celeriac.kit.words import counted
from celeriac.services.ports import RunContext

_MEGABYTE = 1024 * 1024
_SHOWN_LINES = 200
_SHOWN_CHARACTERS = 16_000
_COMMAND_CHARACTERS = 200


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

        None if all pass. Raises VerifyFailedError if the agent was sent back often enough.
        """
        for line in self.repository.verify:
            failed = await self._run(line, "verify")
            if failed is None:
                continue
            if self.rounds >= self.repository.verify_rounds:
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

    async def _run(self, line: str, source: str) -> str | None:
        """Run a command; return how it has failed, with the end of its output, or None."""
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
        text = "\n".join(shown)[-_SHOWN_CHARACTERS:]
        name = clip(line, _COMMAND_CHARACTERS)
        return f"`{name}` exited with {done.code}:\n{text}"
