"""Exit codes, and from an error to what the terminal says of it."""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum

from celeriac.domain.errors import (
    CeleriacError,
    ConfigurationError,
    ForbiddenError,
    InvalidInputError,
    NotFoundError,
    UnauthenticatedError,
    UnavailableError,
)
from celeriac.embedded.errors import StopRequestedError


class ExitCode(IntEnum):
    """What a command's exit code means; documented in docs/cli.md."""

    OK = 0
    FAILED = 1
    USAGE = 2
    NOT_FOUND = 3
    DENIED = 4
    UNAVAILABLE = 5
    ENDED_ALREADY = 6
    INTERRUPTED = 130


class CommandError(CeleriacError):
    """A command can't do what it was asked; `cure` says what would help."""

    code = "command_failed"

    def __init__(
        self,
        message: str,
        *,
        cure: str | None = None,
        exit_code: ExitCode = ExitCode.FAILED,
        problem: str | None = None,
    ) -> None:
        """`problem` is the code that the server gave, shown in place of the error's own."""
        super().__init__(message)
        self.cure = cure
        self.exit_code = exit_code
        self.problem = problem or self.code


class UsageProblemError(CommandError):
    """What was typed can't be understood."""

    code = "usage"

    def __init__(self, message: str, *, cure: str | None = None) -> None:
        super().__init__(message, cure=cure, exit_code=ExitCode.USAGE)


_CODES: tuple[tuple[type[CeleriacError], ExitCode], ...] = (
    (InvalidInputError, ExitCode.USAGE),
    (ConfigurationError, ExitCode.USAGE),
    (NotFoundError, ExitCode.NOT_FOUND),
    (UnauthenticatedError, ExitCode.DENIED),
    (ForbiddenError, ExitCode.DENIED),
    (UnavailableError, ExitCode.UNAVAILABLE),
    (StopRequestedError, ExitCode.INTERRUPTED),
)


def exit_code_of(error: CeleriacError) -> ExitCode:
    """Return the exit code that `error` stands for."""
    if isinstance(error, CommandError):
        return error.exit_code
    for kind, code in _CODES:
        if isinstance(error, kind):
            return code
    return ExitCode.FAILED


@dataclass(frozen=True, slots=True)
class ErrorReport:
    """An error as the terminal shows it: one line, and below it what helps."""

    message: str
    code: str | None = None
    cure: str | None = None

    def lines(self) -> Iterator[str]:
        """Yield `error: MESSAGE [CODE]`, the message's further lines, and the cure."""
        first, *rest = self.message.splitlines() or ["it failed without a word"]
        yield f"error: {first} [{self.code}]" if self.code else f"error: {first}"
        yield from rest
        if self.cure:
            yield f"       {self.cure}"


def report_of(error: CeleriacError) -> ErrorReport:
    """Return how the terminal shows an error of ours."""
    if isinstance(error, CommandError):
        return ErrorReport(error.message, error.problem, error.cure or CURES.get(error.problem))
    return ErrorReport(error.message, error.code, CURES.get(error.code))


CURES = {
    "task_inactive": "`celeriac tasks activate TASK` switches it on.",
    "unauthenticated": "Give a key with --api-key or CELERIAC_API_KEY; `celeriac keys create` "
    "makes one.",
    "database_unavailable": "`celeriac doctor` shows what answers and what does not.",
    "broker_unavailable": "`celeriac doctor` shows what answers and what does not.",
}
"""What helps, for errors whose message can't know who reads it."""
