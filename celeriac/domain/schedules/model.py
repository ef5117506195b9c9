"""Schedules and their fires, and which of them are due."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from itertools import count, islice
from uuid import UUID

from celeriac.domain.errors import InvalidInputError
from celeriac.domain.schedules.cron import MIN_SECONDS, Cron
from celeriac.domain.schedules.policies import (
    GRACE_SECONDS,
    Misfire,
    Overlap,
    Skipped,
    catch_up,
    interval_fires,
    jittered,
)
from celeriac.domain.schedules.zones import time_zone
from celeriac.kit.json_types import JsonObject

MAX_EVERY_SECONDS = 366 * 86_400
MAX_JITTER_SECONDS = 3_600
FIRES_AT_ONCE = 50
"""Fires of one transaction; the rest follows in the next ones."""

MAX_LATE_SECONDS = 7 * 86_400

MAX_COUNTED = 100_000
"""Fires older than the window are counted up to this number."""

_SECOND = timedelta(seconds=1)
_CHUNK = 100


class FireKind(StrEnum):
    """Who or what asked for a fire."""

    SCHEDULED = "scheduled"
    MANUAL = "manual"
    """Somebody has run the schedule by hand."""
    BACKFILL = "backfill"
    """Somebody makes up for a range of time."""


class FireStatus(StrEnum):
    """Whether a fire has happened."""

    STARTED = "started"
    WAITING = "waiting"
    """It starts when what the schedule has started before has ended."""
    SKIPPED = "skipped"


class SkipReason(StrEnum):
    """Why a fire has not happened."""

    MISSED = "missed"
    """It was late, and the policy doesn't make up for it."""
    OVERLAP = "overlap"
    """An earlier one has not ended."""
    PAUSED = "paused"
    DELETED = "deleted"
    """The schedule was deleted while it waited."""
    REFUSED = "refused"
    """The task or workflow can't be started; `error` says why."""


@dataclass(frozen=True, slots=True)
class Timing:
    """When a schedule fires: by one of `cron`, `every_seconds` and `at`."""

    cron: str | None = None
    every_seconds: int | None = None
    at: datetime | None = None
    zone: str = "UTC"
    """Of the cron expression; an IANA name."""

    def check(self, now: datetime) -> None:
        """Raise InvalidInputError if it is not a timing, or has no fire after `now`."""
        given = [each for each in (self.cron, self.every_seconds, self.at) if each is not None]
        if len(given) != 1:
            raise InvalidInputError(
                "Give exactly one of cron, every_seconds and at.",
                field="cron" if not given or self.cron is not None else "every_seconds",
            )
        time_zone(self.zone)
        if self.cron is not None:
            Cron.parse(self.cron)
        every = self.every_seconds
        if every is not None and not MIN_SECONDS <= every <= MAX_EVERY_SECONDS:
            raise InvalidInputError(
                f"every_seconds must lie between {MIN_SECONDS} and {MAX_EVERY_SECONDS}.",
                field="every_seconds",
            )
        if self.at is not None and self.at <= now:
            raise InvalidInputError("at must lie in the future.", field="at")

    def fires(self, anchor: datetime, after: datetime) -> Iterator[datetime]:
        """Yield the fires after `after`, in order; those of an interval count from `anchor`."""
        if self.cron is not None:
            yield from Cron.parse(self.cron).fires(time_zone(self.zone), after)
        elif self.every_seconds is not None:
            for _ in count():
                moments = interval_fires(anchor, self.every_seconds, after, _CHUNK)
                yield from moments
                after = moments[-1]
        elif self.at is not None and self.at > after:
            yield self.at


@dataclass(frozen=True, slots=True)
class Schedule:
    """When a task or workflow starts by itself."""

    id: UUID
    workspace_id: UUID
    owner_id: UUID
    """Whose rights its fires need."""
    name: str
    task_id: UUID | None
    task_name: str | None
    workflow_id: UUID | None
    workflow_name: str | None
    input: JsonObject
    """The variables of the task, or the input of the workflow."""
    cron: str | None
    every_seconds: int | None
    at: datetime | None
    zone: str
    overlap: Overlap
    misfire: Misfire
    catch_up: int
    """How many missed fires `all` makes up for."""
    window_seconds: int
    """Missed fires older than this are never made up for."""
    jitter_seconds: int
    late_seconds: int
    """A fire that starts later than this is reported to webhooks."""
    active: bool
    anchor_at: datetime
    """From which an interval counts."""
    next_fire_at: datetime | None
    """Without jitter; None after the last one."""
    due_at: datetime | None
    """When that starts, with jitter."""
    revision: int
    """Counts the changes."""
    created_at: datetime
    updated_at: datetime

    @property
    def timing(self) -> Timing:
        """When it fires."""
        return Timing(self.cron, self.every_seconds, self.at, self.zone)

    def fires(self, after: datetime) -> Iterator[datetime]:
        """Yield the fires after a time, in order, without jitter."""
        return self.timing.fires(self.anchor_at, after)

    def starts_at(self, fire_at: datetime) -> datetime:
        """Return when a fire starts: with jitter."""
        return jittered(self.id, fire_at, self.jitter_seconds)


@dataclass(frozen=True, slots=True)
class Fire:
    """A fire that has happened, or some in a row that have not."""

    id: UUID
    workspace_id: UUID
    schedule_id: UUID
    owner_id: UUID
    """As whom it starts."""
    kind: FireKind
    scheduled_at: datetime
    """Without jitter; of several, the first one's."""
    overlap: Overlap
    """The policy that decided about it."""
    status: FireStatus
    reason: SkipReason | None
    error: str | None
    count: int
    """How many fires this row is."""
    last_at: datetime | None
    """Of several, the last one's."""
    execution_id: UUID | None
    run_id: UUID | None
    started_at: datetime | None
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Preview:
    """A fire to come."""

    at: datetime
    """In UTC."""
    local: datetime
    """In the zone of the schedule."""
    starts_at: datetime
    """With jitter, in UTC."""


@dataclass(frozen=True, slots=True)
class Turn:
    """What is done about the fires of a schedule that are due."""

    fires: tuple[datetime, ...]
    skipped: Skipped | None
    next_fire_at: datetime | None


def turn_of(schedule: Schedule, now: datetime) -> Turn:
    """Decide about all fires that are due at `now`; at most `FIRES_AT_ONCE` of them happen now."""
    if schedule.next_fire_at is None:
        return Turn((), None, None)
    grace = timedelta(seconds=GRACE_SECONDS + schedule.jitter_seconds)
    window = timedelta(seconds=schedule.window_seconds)
    horizon = now - max(window, grace)
    start, ancient = schedule.next_fire_at - _SECOND, None
    if schedule.next_fire_at < horizon:
        ancient = counted_before(schedule, horizon)
        start = horizon - timedelta(microseconds=1)
    due: list[datetime] = []
    following = None
    for fire in schedule.fires(start):
        if schedule.starts_at(fire) > now:
            following = fire
            break
        due.append(fire)
    decided = catch_up(
        due, now, schedule.misfire, cap=schedule.catch_up, window=window, grace=grace
    )
    skipped = _together(ancient, decided.skipped)
    if len(decided.fires) > FIRES_AT_ONCE:
        return Turn(decided.fires[:FIRES_AT_ONCE], skipped, decided.fires[FIRES_AT_ONCE])
    return Turn(decided.fires, skipped, following)


def counted_before(schedule: Schedule, end: datetime) -> Skipped | None:
    """Return the fires from the next one on that are before `end`, `MAX_COUNTED` at most."""
    first, last, number = schedule.next_fire_at, None, 0
    if first is None:
        return None
    for fire in islice(schedule.fires(first - _SECOND), MAX_COUNTED):
        if fire >= end:
            break
        last, number = fire, number + 1
    return None if last is None else Skipped(number, first, last)


def _together(one: Skipped | None, other: Skipped | None) -> Skipped | None:
    if one is None or other is None:
        return one or other
    return Skipped(one.count + other.count, one.first, other.last)
