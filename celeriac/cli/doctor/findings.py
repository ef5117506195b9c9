"""What a check comes to."""

from dataclasses import dataclass
from enum import StrEnum

from celeriac.cli.core.output import ExitCode


class Level(StrEnum):
    """How good a finding is."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at: how it is and, where it isn't well, what helps."""

    subject: str
    level: Level
    message: str
    cure: str | None = None
    exit_code: ExitCode = ExitCode.FAILED
    """What a command exits with that can't go on for this."""


def ok(subject: str, message: str) -> Finding:
    """Return that `subject` is well."""
    return Finding(subject, Level.OK, message)


def warning(subject: str, message: str, cure: str) -> Finding:
    """Return that `subject` works, but not as well as it should."""
    return Finding(subject, Level.WARN, message, cure)


def failed(
    subject: str,
    message: str,
    cure: str | None,
    exit_code: ExitCode = ExitCode.UNAVAILABLE,
) -> Finding:
    """Return that `subject` doesn't work; no `cure` where the message says it."""
    return Finding(subject, Level.FAIL, message, cure, exit_code)
