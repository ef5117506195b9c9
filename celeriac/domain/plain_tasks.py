"""Plain Celery tasks: those that stand for no execution. Workers count how they end."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

MOST_NAMES = 200
"""Names of plain tasks that have sums of their own; those of all others are added up."""

LONGEST_NAME = 200


class PlainEnd(StrEnum):
    """How a plain task ended, in the words of executions."""

    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    """It was revoked, or had expired."""


@dataclass(slots=True)
class EndCounts:
    """How many plain tasks ended."""

    completed: int = 0
    failed: int = 0
    cancelled: int = 0

    def add(self, end: PlainEnd) -> None:
        """Count one more."""
        setattr(self, end.value, getattr(self, end.value) + 1)

    @property
    def ended(self) -> int:
        """How many there are."""
        return self.completed + self.failed + self.cancelled


@dataclass(frozen=True, slots=True)
class PlainFigures:
    """What is known of plain tasks."""

    totals: EndCounts
    """Of all time."""
    window: EndCounts
    """Of the last minutes."""
    running: int
    """Those that run now, as worker processes reported last."""


CountsByName = Mapping[str, EndCounts]
