"""The findings of checks."""

from dataclasses import dataclass
from enum import StrEnum

from celeriac.cli.core.output import ExitCode


class Level(StrEnum):
    """The level of a finding."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check, with its cure where it isn't OK."""

    subject: str
    level: Level
    message: str
    cure: str | None = None
    exit_code: ExitCode = ExitCode.FAILED
    """The exit code of a command that this failure stops."""


def ok(subject: str, message: str) -> Finding:
    """Return a finding of level OK."""
    return Finding(subject, Level.OK, message)


def warning(subject: str, message: str, cure: str | None) -> Finding:
    """Return a finding of level WARN; `cure` is None where the message has it."""
    return Finding(subject, Level.WARN, message, cure)


def failed(
    subject: str,
    message: str,
    cure: str | None,
    exit_code: ExitCode = ExitCode.UNAVAILABLE,
) -> Finding:
    """Return a finding of level FAIL; `cure` is None where the message has it."""
    return Finding(subject, Level.FAIL, message, cure, exit_code)
