"""Which times a backfill makes up for."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from celeriac.domain.errors import InvalidInputError
from celeriac.domain.schedules.model import Schedule
from celeriac.domain.schedules.policies import MAX_WAITING, Overlap

MAX_TIMES = 10_000
"""The most times of a schedule in the range of one backfill."""

CHOICES = (Overlap.QUEUE_ALL, Overlap.ALLOW)
"""Policies for fires of a backfill: one after another, or all at once. Others would skip most."""

_MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class Backfill:
    """What a backfill makes."""

    fires: tuple[datetime, ...]
    already: int
    """How many times of the range have fired, or wait."""
    until: datetime
    """The end of the range, or the first time about which the schedule itself has to decide."""


def check_range(start: datetime, end: datetime, now: datetime) -> None:
    """Raise InvalidInputError if a range is empty or in the future."""
    if end > now:
        raise InvalidInputError("to must not lie in the future.", field="to")
    if start >= end:
        raise InvalidInputError("from must lie before to.", field="from")


def times_within(schedule: Schedule, start: datetime, end: datetime) -> list[datetime]:
    """Return the times of a schedule from `start` on and before `end`.

    Raises InvalidInputError for more than `MAX_TIMES`.
    """
    found: list[datetime] = []
    for at in schedule.fires(start - _MICROSECOND):
        if at >= end:
            break
        if len(found) == MAX_TIMES:
            raise InvalidInputError(
                f"The range has more than {MAX_TIMES:,} times; end it at {at.isoformat()} or "
                "earlier.",
                field="to",
            )
        found.append(at)
    return found


def without(times: list[datetime], happened: set[datetime], until: datetime) -> Backfill:
    """Return the backfill of `times`, those left out that have `happened`.

    Raises InvalidInputError if it makes more than may wait.
    """
    left = [at for at in times if at not in happened]
    if len(left) > MAX_WAITING:
        raise InvalidInputError(
            f"The range has {len(left):,} fires to make, at most {MAX_WAITING:,} are made at once; "
            f"end it at {left[MAX_WAITING].isoformat()} and send the rest later.",
            field="to",
        )
    return Backfill(tuple(left), len(times) - len(left), until)
