"""What a schedule does with fires that are late or overlap; jitter and intervals."""

import hashlib
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from uuid import UUID

GRACE_SECONDS = 60
"""A fire that is later than this was missed."""

MAX_CAUGHT_UP = 1_000
"""The largest cap of `all`."""

MAX_WAITING = 1_000
"""How many fires of a schedule may wait."""

MAX_WINDOW_SECONDS = 7 * 86_400
"""The longest catch-up window."""


class Misfire(StrEnum):
    """Which of the missed fires are made up for."""

    SKIP = "skip"
    LATEST = "latest"
    ALL = "all"


class Overlap(StrEnum):
    """What happens to a fire while an earlier one of the schedule has not ended."""

    SKIP = "skip"
    ALLOW = "allow"
    QUEUE = "queue"
    """It waits, if no other one does."""
    QUEUE_ALL = "queue_all"
    """It waits, and starts after those that wait already."""
    CANCEL_RUNNING = "cancel_running"
    """The earlier one is cancelled; this one starts after it has ended."""


class Action(StrEnum):
    """What is done with one fire."""

    START = "start"
    WAIT = "wait"
    SKIP = "skip"


@dataclass(frozen=True, slots=True)
class Skipped:
    """Fires that do not happen, summed in one row."""

    count: int
    first: datetime
    last: datetime


@dataclass(frozen=True, slots=True)
class CatchUp:
    """What is done about all fires that are due."""

    fires: tuple[datetime, ...]
    """Those that happen, oldest first."""
    skipped: Skipped | None


def catch_up(
    due: Iterable[datetime],
    now: datetime,
    misfire: Misfire,
    *,
    cap: int,
    window: timedelta,
    grace: timedelta = timedelta(seconds=GRACE_SECONDS),
) -> CatchUp:
    """Decide about the fires that are due, which are given in order.

    Fires up to `grace` late always happen. Of the missed ones not older than `window`,
    `latest` makes up for the newest unless one happens anyway, and `all` for the newest `cap`.
    Memory does not grow with the number of fires.
    """
    kept: deque[datetime] = deque(maxlen={Misfire.SKIP: 0, Misfire.LATEST: 1}.get(misfire, cap))
    on_time: list[datetime] = []
    count, first, last = 0, None, None
    for fire in due:
        if now - fire <= grace:
            on_time.append(fire)
            continue
        gone = fire
        if now - fire <= window and kept.maxlen:
            gone, full = kept[0] if kept else fire, len(kept) == kept.maxlen
            kept.append(fire)
            if not full:
                continue
        count, first, last = count + 1, first or gone, gone
    if misfire is Misfire.LATEST and on_time and kept:
        gone = kept.pop()
        count, first, last = count + 1, first or gone, gone
    skipped = Skipped(count, first, last) if first is not None and last is not None else None
    return CatchUp((*kept, *on_time), skipped)


def overlapping(overlap: Overlap, *, unended: int, waiting: int) -> Action:
    """Decide about one fire.

    `unended` counts what the schedule has started and has not ended, `waiting` its fires that wait
    for that, without those of backfills.
    """
    if overlap is Overlap.ALLOW or unended + waiting == 0:
        return Action.START
    most = {Overlap.SKIP: 0, Overlap.QUEUE_ALL: MAX_WAITING}.get(overlap, 1)
    return Action.WAIT if waiting < most else Action.SKIP


def startable(waiting: Iterable[Overlap], *, unended: int) -> tuple[int, ...]:
    """Return the places of those fires that start now, of some that wait, given in their order.

    `waiting` are the policies that decided about them. Those with `allow` wait for nothing; of all
    others one starts when nothing is under way.
    """
    places: list[int] = []
    for place, overlap in enumerate(waiting):
        if overlap is Overlap.ALLOW or unended + len(places) == 0:
            places.append(place)
    return tuple(places)


def jittered(schedule_id: UUID, fire_at: datetime, jitter_seconds: int) -> datetime:
    """Return when a fire starts: the same on every beat, `jitter_seconds` later at most."""
    if jitter_seconds == 0:
        return fire_at
    named = schedule_id.bytes + int(fire_at.timestamp()).to_bytes(8, "big", signed=True)
    drawn = int.from_bytes(hashlib.sha256(named).digest()[:8], "big")
    return fire_at + timedelta(seconds=drawn % (jitter_seconds + 1))


def interval_fires(
    anchor: datetime, every_seconds: int, after: datetime, count: int
) -> tuple[datetime, ...]:
    """Return the next `count` moments after `after` of `anchor + n * every_seconds`, n >= 1.

    They don't depend on when earlier ones really happened, nor on changes of any clock.
    """
    every = timedelta(seconds=every_seconds)
    passed = max((after - anchor) // every + 1, 1)
    return tuple(anchor + (passed + n) * every for n in range(count))


@dataclass(frozen=True, slots=True)
class Policies:
    """What a schedule does with fires that are late or overlap."""

    overlap: Overlap = Overlap.SKIP
    misfire: Misfire = Misfire.LATEST
    catch_up: int = 10
    window_seconds: int = 86_400
    jitter_seconds: int = 0
    late_seconds: int = 300
