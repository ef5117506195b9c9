"""What a check has found to be wrong."""

from dataclasses import dataclass
from enum import StrEnum


class Harm(StrEnum):
    """The column of the table in which a finding is counted."""

    LOST = "lost"
    DOUBLED = "doubled"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class Finding:
    """A promise that was not kept."""

    check: str
    harm: Harm
    subject: str
    """The execution's id or token, or what else it is about."""
    detail: str
    alive: tuple[float, float] | None = None
    """When the execution was alive (`time.time`); faults of that time may have caused it."""
