"""Cron expressions and their times in a zone.

The library parses and steps through wall-clock times without a zone. The rules for changes of the
clock are here, because those of the library miss fires where a change is no whole hour, differ
with six fields, and return times before their start within a repeated hour.
"""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Self
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from celeriac.domain.errors import InvalidInputError
from celeriac.kit.words import counted

LONGEST_EXPRESSION = 200
MIN_SECONDS = 10
"""The shortest time between two fires of one schedule."""

_NICKNAMES = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
_PROBE = timedelta(hours=12)
_SECOND = timedelta(seconds=1)
_CLOCK_FIELDS = 3


@dataclass(frozen=True, slots=True)
class Cron:
    """A valid expression."""

    text: str
    """As its user wrote it."""
    expression: str = field(repr=False)
    """With six fields."""
    fixed: bool = field(repr=False)
    """Whether it names times of the day: neither second, minute nor hour begins with `*`."""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read five fields, six (seconds first), or a nickname. Raises InvalidInputError."""
        if len(text) > LONGEST_EXPRESSION:
            raise _invalid(f"must have {LONGEST_EXPRESSION} characters at most")
        written = text.strip().lower()
        if written.startswith("@") and written not in _NICKNAMES:
            raise _invalid(f"has an unknown nickname; there are: {', '.join(_NICKNAMES)}")
        parts = _NICKNAMES.get(written, written).split()
        if len(parts) == 5:  # noqa: PLR2004 - minute, hour, day, month, weekday
            parts.insert(0, "0")
        if len(parts) != 6:  # noqa: PLR2004 - with the second
            raise _invalid(
                f"has {counted(len(parts), 'field')}; write five (minute, hour, day of month, "
                "month, day of week), six with the second first, or a nickname such as '@daily'"
            )
        expression = " ".join(parts)
        try:
            steps = CronSim(expression, datetime(2000, 1, 1))  # noqa: DTZ001 - wall clock
            next(steps)
        except CronSimError as error:
            place = str(error).removeprefix("Bad ")
            raise _invalid(f"has a field that can't be read, or never matches: {place}") from None
        except StopIteration:
            raise _invalid("never fires; no date fits its day, month and day of week") from None
        _check_seconds(sorted(steps.seconds))
        fixed = not any(part.startswith("*") for part in parts[:_CLOCK_FIELDS])
        return cls(text=text.strip(), expression=expression, fixed=fixed)

    def fires(self, zone: ZoneInfo, after: datetime) -> Iterator[datetime]:
        """Yield the times strictly after `after`, in order, in UTC; at most 50 years ahead of each.

        Times of the day fire once: those that a change of the clock skips at the moment of the
        change, those that it repeats at the first pass. All other expressions fire at each moment
        whose wall-clock time matches: not in skipped hours, and twice in repeated ones.
        """
        times = self._fixed(zone, after) if self.fixed else self._matching(zone, after)
        last = after
        # the calendar ends with the year 9999
        with suppress(OverflowError):
            for fire in times:
                if fire > last:
                    last = fire
                    yield fire

    def _walls(self, after: datetime) -> Iterator[datetime]:
        return CronSim(self.expression, after)

    def _fixed(self, zone: ZoneInfo, after: datetime) -> Iterator[datetime]:
        # in order, because the moment of a wall-clock time never decreases
        for wall in self._walls(_wall(after, zone)):
            moment = wall.replace(tzinfo=zone).astimezone(UTC)
            if _wall(moment, zone) == wall:
                yield moment
            else:
                # both readings of a skipped time enclose the change
                late = wall.replace(tzinfo=zone, fold=0).astimezone(UTC)
                early = wall.replace(tzinfo=zone, fold=1).astimezone(UTC)
                yield _change(zone, early - _SECOND, late) or late

    def _matching(self, zone: ZoneInfo, after: datetime) -> Iterator[datetime]:
        start = after.astimezone(UTC)
        while True:
            # one part with a constant offset at a time
            offset = _offset(start, zone)
            reached = start
            for wall in self._walls(_naive(start + offset)):
                fire = (wall - offset).replace(tzinfo=UTC)
                change = _change(zone, reached, fire)
                if change is not None:
                    break
                reached = fire
                yield fire
            else:
                return
            # the wall clock of the new part, from just before its first second
            offset = _offset(change, zone)
            yield from self._first(change, offset)
            start = change

    def _first(self, change: datetime, offset: timedelta) -> Iterator[datetime]:
        """Yield the moment of a change itself, if it matches."""
        wall = _naive(change + offset)
        if next(self._walls(wall - _SECOND), None) == wall:
            yield change


def _check_seconds(seconds: list[int]) -> None:
    around = [*seconds, seconds[0] + 60]
    if any(later - earlier < MIN_SECONDS for earlier, later in pairwise(around)):
        raise _invalid(
            f"fires more often than every {MIN_SECONDS} seconds; write the seconds as '0' or '*/30'"
        )


def _change(zone: ZoneInfo, start: datetime, end: datetime) -> datetime | None:
    """Return the first moment in (start, end] with another offset than that at `start`.

    Two changes within twelve hours that cancel each other are not seen; no zone has such.
    """
    offset, low, high = _offset(start, zone), start, start
    while _offset(high, zone) == offset:
        if high >= end:
            return None
        low, high = high, min(high + _PROBE, end)
    low = low.replace(microsecond=0)
    while high - low > _SECOND:
        middle = low + timedelta(seconds=(high - low) // _SECOND // 2)
        if _offset(middle, zone) == offset:
            low = middle
        else:
            high = middle
    return high


def _offset(moment: datetime, zone: ZoneInfo) -> timedelta:
    return moment.astimezone(zone).utcoffset() or timedelta()


def _wall(moment: datetime, zone: ZoneInfo) -> datetime:
    return moment.astimezone(zone).replace(tzinfo=None, fold=0)


def _naive(moment: datetime) -> datetime:
    return moment.replace(tzinfo=None)


def _invalid(words: str) -> InvalidInputError:
    return InvalidInputError(f"The cron expression {words}.", field="cron")
