"""Runs a program to its end, with a time limit, and keeps a bounded part of its output."""

import asyncio
import contextlib
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from celeriac.agents.child.process import ChildCommand, GuardedProcess
from celeriac.agents.child.protocol import LineSplitter

_READ_BYTES = 65_536
_MOST_BYTES = 1_000_000
_KEPT_LINES = 400

OnLine = Callable[[str], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Ended:
    """A program that has ended.

    `code` is its exit code, or minus the number of a signal. `output` is the beginning of its
    stdout, and `said` are the last lines of its stderr.
    """

    code: int
    output: bytes
    said: tuple[str, ...]

    @property
    def text(self) -> str:
        """The output as one text without white space at its ends."""
        return self.output.decode(errors="replace").strip()

    @property
    def reason(self) -> str:
        """The last line of stderr that is not empty, or the exit code."""
        lines = [line.strip() for line in self.said if line.strip()]
        return lines[-1] if lines else f"it exited with {self.code}"


class _Program(GuardedProcess):
    """A program without input."""

    output: bytes = b""
    on_line: OnLine | None = None

    def _begin(self) -> None:
        self.stdin.close()
        self.said: deque[str] = deque(maxlen=_KEPT_LINES)
        self._readers = [
            asyncio.create_task(self._read_stdout(), name=f"read program {self.pid}"),
            asyncio.create_task(self._read_stderr(), name=f"read stderr of {self.pid}"),
        ]
        self._tasks = [
            *self._readers,
            asyncio.create_task(self._sweep(), name=f"sweep program {self.pid}"),
        ]

    async def ended(self) -> None:
        """Wait until it has exited and all of its output is read. Raises what `on_line` does."""
        # at once: a program whose output nobody reads any more may never exit
        await asyncio.gather(self._exited.wait(), *self._readers)

    async def _read_stdout(self) -> None:
        kept = bytearray()
        while chunk := await self.stdout.read(_READ_BYTES):
            if len(kept) < _MOST_BYTES:
                kept += chunk[: _MOST_BYTES - len(kept)]
                self.output = bytes(kept)

    async def _read_stderr(self) -> None:
        splitter = LineSplitter()
        while chunk := await self.stderr.read(_READ_BYTES):
            await self._lines(splitter.feed(chunk))
        await self._lines(splitter.rest())

    async def _lines(self, lines: list[str]) -> None:
        for line in lines:
            self.said.append(line)
            if self.on_line is not None:
                await self.on_line(line)


async def run_program(
    command: ChildCommand, *, seconds: float | None = None, on_line: OnLine | None = None
) -> Ended:
    """Run a program and return how it ended; none of its processes is left, whatever happens.

    `on_line` gets each line of its stderr. Raises TimeoutError after `seconds`, OSError if it
    can't be started, and UnreachableError.
    """
    async with contextlib.AsyncExitStack() as stack:
        process = await stack.enter_async_context(_Program.spawn(command))
        process.on_line = on_line
        async with asyncio.timeout(seconds):
            await process.ended()
    assert process.returncode is not None
    return Ended(process.returncode, process.output, tuple(process.said))
