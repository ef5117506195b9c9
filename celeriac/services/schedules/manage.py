"""Schedules of a workspace: created, changed, paused, run by hand, and their fires listed."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import partial
from itertools import islice
from uuid import UUID

import structlog

from celeriac.db import audit, engine
from celeriac.db.engine import Connection, Database
from celeriac.db.executions.lifecycle import StaleSpecError
from celeriac.db.schedules import fires
from celeriac.db.schedules import schedules as rows
from celeriac.domain.accounts import Actor, Role
from celeriac.domain.audit import changes
from celeriac.domain.errors import ConflictError, InvalidInputError, NameTakenError
from celeriac.domain.paging import Page
from celeriac.domain.schedules.backfill import (
    CHOICES,
    Backfill,
    check_range,
    times_within,
    without,
)
from celeriac.domain.schedules.inputs import check_input, input_of
from celeriac.domain.schedules.model import (
    Fire,
    FireKind,
    FireStatus,
    Preview,
    Schedule,
    SkipReason,
    Timing,
    counted_before,
)
from celeriac.domain.schedules.policies import (
    MAX_WAITING,
    Action,
    Misfire,
    Overlap,
    jittered,
)
from celeriac.domain.schedules.zones import time_zone
from celeriac.kit.ids import parse_uuid, uuid7
from celeriac.kit.json_types import JsonObject
from celeriac.kit.words import counted
from celeriac.services.executions.dispatch import Dispatch
from celeriac.services.reading import present, read_page
from celeriac.services.schedules.fire import (
    STALE_TRIES,
    Clock,
    Prepared,
    UnderWay,
    fire,
    skip,
    target_of,
)
from celeriac.services.schedules.start import Starter, Target

logger = structlog.get_logger(__name__)

MOST_SCHEDULES = 1_000
"""How many a workspace may have."""

_TIMING = frozenset({"cron", "every_seconds", "at"})
_MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class Policies:
    """What a schedule does with fires that are late or overlap."""

    overlap: Overlap = Overlap.SKIP
    misfire: Misfire = Misfire.LATEST
    catch_up: int = 10
    window_seconds: int = 86_400
    jitter_seconds: int = 0
    late_seconds: int = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class NewSchedule:
    """A schedule to create; `target` is checked before it is stored."""

    name: str
    target: Target
    timing: Timing
    policies: Policies = field(default_factory=Policies)
    active: bool = True


class Schedules:
    """Schedules and their fires. Safe to share between threads."""

    def __init__(
        self,
        database: Database,
        starter: Starter,
        dispatch: Dispatch,
        *,
        clock: Clock = engine.clock,
    ) -> None:
        self._database = database
        self._starter = starter
        self._dispatch = dispatch
        self._clock = clock

    def create(self, actor: Actor, new: NewSchedule) -> Schedule:
        """Create a schedule; it fires as its owner, who is `actor`.

        Raises ForbiddenError, NotFoundError, NameTakenError, ConflictError, and InvalidInputError
        for a timing that never fires or an input that the task or workflow refuses.
        """
        actor.require(Role.OPERATOR)
        self._check(actor, new.target, new.timing.zone)
        schedule_id = uuid7()
        with self._database.transaction() as connection:
            now = self._clock(connection)
            new.timing.check(now)
            if rows.count(connection, actor.workspace_id) >= MOST_SCHEDULES:
                raise ConflictError(
                    f"The workspace has {MOST_SCHEDULES} schedules, which is the most; delete one "
                    "first."
                )
            values: dict[str, object] = {
                "id": schedule_id,
                "workspace_id": actor.workspace_id,
                "owner_id": actor.user_id,
                "name": new.name,
                "task_id": new.target.task_id,
                "workflow_id": new.target.workflow_id,
                "input": new.target.input,
                "active": new.active,
                **_timed(schedule_id, new.timing, now, new.policies.jitter_seconds),
                **_policies(new.policies),
            }
            if not rows.add(connection, values):
                raise NameTakenError(
                    f"The workspace already has a schedule named {new.name!r}; choose another "
                    "name or change that one.",
                    field="name",
                )
            _record(connection, actor, "create", schedule_id)
            made = _found(connection, actor, str(schedule_id))
        logger.info("schedule.created", schedule_id=schedule_id)
        return made

    def _check(self, actor: Actor, target: Target, zone: str) -> None:
        """Raise an error if a target can't be started now, with the input of a fire."""
        check_input(target.input)
        with self._database.autocommit() as connection:
            now = self._clock(connection)
        sample = input_of(target.input, now, zone, FireKind.SCHEDULED)
        self._starter.prepare(actor, replace(target, input=sample), fresh=True)

    def get(self, actor: Actor, reference: str) -> Schedule:
        """Return a schedule by its id or name. Raises NotFoundError."""
        with self._database.autocommit() as connection:
            return _found(connection, actor, reference)

    def find(self, actor: Actor, *, cursor: str | None = None, limit: int = 50) -> Page[Schedule]:
        """Return a page of the workspace's schedules, the newest first.

        Raises CursorInvalidError.
        """
        find = partial(rows.find, workspace=actor.workspace_id)
        return read_page(self._database, "schedules", cursor, limit, find)

    def change(self, actor: Actor, reference: str, given: Mapping[str, object]) -> Schedule:
        """Change the fields in `given`; one of cron, every_seconds and at replaces the others.

        With another timing the next fire is after now, whatever was due before. Raises
        ForbiddenError, NotFoundError, InvalidInputError.
        """
        actor.require(Role.OPERATOR)
        values = dict(given)
        if _TIMING & values.keys():
            values = dict.fromkeys(_TIMING) | values
        if "input" in values:
            before = self.get(actor, reference)
            target = Target(before.task_id, before.workflow_id, _object(values["input"]))
            self._check(actor, target, before.zone)
        with self._database.transaction() as connection:
            before = _found(connection, actor, reference, lock=True)
            schedule_id = before.id
            wanted = replace(before, **values)  # type: ignore[arg-type] # checked by the caller
            if wanted.timing != before.timing:
                now = self._clock(connection)
                wanted.timing.check(now)
                timed = _timed(schedule_id, wanted.timing, now, wanted.jitter_seconds)
                values |= timed
            elif before.next_fire_at is not None:
                values["due_at"] = wanted.starts_at(before.next_fire_at)
            rows.change(connection, schedule_id, values)
            after = _found(connection, actor, str(schedule_id))
            # not the input, which may hold secrets
            fields = sorted(changes(before, after))
            _record(connection, actor, "change", schedule_id, fields=list(fields))
        logger.info("schedule.changed", schedule_id=schedule_id)
        return after

    def delete(self, actor: Actor, reference: str) -> None:
        """Delete a schedule; what it has started is not cancelled, what waits never starts.

        Raises ForbiddenError and NotFoundError.
        """
        actor.require(Role.OPERATOR)
        with self._database.transaction() as connection:
            schedule_id = _found(connection, actor, reference, lock=True).id
            fires.skip_waiting(connection, schedule_id, SkipReason.DELETED)
            rows.delete(connection, schedule_id)
            _record(connection, actor, "delete", schedule_id)
        logger.info("schedule.deleted", schedule_id=schedule_id)

    def pause(self, actor: Actor, reference: str) -> Schedule:
        """Let a schedule not fire until it is resumed; its fires that wait are skipped.

        Raises ForbiddenError, NotFoundError.
        """
        actor.require(Role.OPERATOR)
        with self._database.transaction() as connection:
            found = _found(connection, actor, reference, lock=True)
            skipped = fires.skip_waiting(connection, found.id, SkipReason.PAUSED)
            if found.active or skipped:
                rows.change(connection, found.id, {"active": False})
                _record(connection, actor, "pause", found.id, skipped=skipped)
            return _found(connection, actor, reference)

    def resume(self, actor: Actor, reference: str, *, catch_up: bool = False) -> Schedule:
        """Let a paused schedule fire again.

        Its fires during the pause are skipped, and are one row with the reason `paused`. With
        `catch_up` they count as missed, and its policy decides about them. Raises ForbiddenError,
        NotFoundError.
        """
        actor.require(Role.OPERATOR)
        with self._database.transaction() as connection:
            found = _found(connection, actor, reference, lock=True)
            if not found.active:
                now = self._clock(connection)
                values: dict[str, object] = {"active": True}
                if not catch_up and found.next_fire_at is not None and found.next_fire_at <= now:
                    gone = counted_before(found, now + _MICROSECOND)
                    if gone is not None:
                        skip(connection, found, gone, SkipReason.PAUSED)
                    values |= _next(found, now)
                rows.change(connection, found.id, values)
                _record(connection, actor, "resume", found.id, catch_up=catch_up)
            return _found(connection, actor, reference)

    def run(self, actor: Actor, reference: str, *, force: bool = False) -> Fire:
        """Start what a schedule starts, now, as `actor`; its next fire stays as it is.

        While an earlier one runs, the policy of the schedule decides, unless `force`. Raises
        ForbiddenError, NotFoundError, and what a start of the task or workflow raises.
        """
        actor.require(Role.OPERATOR)
        with self._database.autocommit() as connection:
            at = self._clock(connection)
            target = target_of(_found(connection, actor, reference), at, FireKind.MANUAL)
        for attempt in range(STALE_TRIES):
            start = self._starter.prepare(actor, target, fresh=attempt > 0)
            try:
                with self._database.transaction() as connection:
                    schedule = _found(connection, actor, reference, lock=True)
                    fired = fire(
                        connection,
                        schedule,
                        at,
                        Prepared(start),
                        owner_id=actor.user_id,
                        kind=FireKind.MANUAL,
                        action=Action.START if force else UnderWay(connection, schedule).decide(),
                    )
                    _record(connection, actor, "run", schedule.id, force=force)
                    stored = fires.get(connection, present(fired.fire_id, "fire", reference))
            except StaleSpecError:
                continue
            if fired.start is not None:
                fired.start.begin()
                self._dispatch.try_to_send()
            return stored
        raise ConflictError("The task is being changed; send the request again.")

    def backfill(
        self,
        actor: Actor,
        reference: str,
        *,
        start: datetime,
        end: datetime,
        overlap: Overlap = Overlap.QUEUE_ALL,
        dry_run: bool = False,
    ) -> Backfill:
        """Make the fires from `start` on and before `end` that have not happened, as `actor`.

        They wait, and the keeper starts them: with `queue_all` one after another, with `allow` at
        once. With `dry_run` nothing is stored. Raises ForbiddenError, NotFoundError,
        InvalidInputError for a range that is empty, in the future or too long, ConflictError if
        too many fires wait, and what a start of the task or workflow raises.
        """
        actor.require(Role.OPERATOR)
        if overlap not in CHOICES:
            raise InvalidInputError(
                f"overlap must be one of these for a backfill: {', '.join(CHOICES)}.",
                field="overlap",
            )
        found = self.get(actor, reference)
        target = target_of(found, end, FireKind.BACKFILL)
        self._starter.prepare(actor, target, fresh=True)
        with self._database.transaction() as connection:
            schedule = _found(connection, actor, reference, lock=not dry_run)
            check_range(start, end, self._clock(connection))
            # what is due is for the keeper, and what a pause has missed for its end
            until = min(end, schedule.next_fire_at or end)
            times = times_within(schedule, start, until)
            wanted = without(times, fires.happening(connection, schedule.id, times), until)
            if dry_run:
                return wanted
            waiting = fires.count_waiting(connection, schedule.id)[1]
            if waiting + len(wanted.fires) > MAX_WAITING:
                raise ConflictError(
                    f"{counted(waiting, 'fire')} of this schedule wait already, and at most "
                    f"{MAX_WAITING:,} may; send the request again when they have started, or end "
                    "the range earlier."
                )
            fires.add_waiting(
                connection, schedule, wanted.fires, owner_id=actor.user_id, overlap=overlap
            )
            details = {"from": start.isoformat(), "to": end.isoformat(), "overlap": overlap.value}
            _record(connection, actor, "backfill", schedule.id, fires=len(wanted.fires), **details)
        logger.info("schedule.backfilled", schedule_id=schedule.id, fires=len(wanted.fires))
        return wanted

    def preview(self, actor: Actor, reference: str, *, number: int) -> tuple[str, list[Preview]]:
        """Return the zone and the next fires, `number` at most, also of a paused schedule.

        Raises NotFoundError.
        """
        with self._database.autocommit() as connection:
            schedule = _found(connection, actor, reference)
            now = self._clock(connection)
        zone = time_zone(schedule.zone)
        return schedule.zone, [
            Preview(each, each.astimezone(zone), schedule.starts_at(each))
            for each in islice(schedule.fires(now), number)
        ]

    def fires(
        self,
        actor: Actor,
        reference: str,
        *,
        status: FireStatus | None = None,
        cursor: str | None = None,
        limit: int = 50,
    ) -> Page[Fire]:
        """Return a page of the fires of a schedule, the newest first, also those skipped.

        Raises NotFoundError, CursorInvalidError.
        """
        found = self.get(actor, reference)
        find = partial(fires.find, schedule_id=found.id, status=status)
        return read_page(self._database, "schedule-fires", cursor, limit, find)


def _timed(
    schedule_id: UUID, timing: Timing, now: datetime, jitter_seconds: int
) -> dict[str, object]:
    """Return the values of a timing that begins now."""
    following = next(timing.fires(now, now), None)
    return {
        "cron": timing.cron,
        "every_seconds": timing.every_seconds,
        "at": timing.at,
        "zone": timing.zone,
        "anchor_at": now,
        "next_fire_at": following,
        "due_at": None if following is None else jittered(schedule_id, following, jitter_seconds),
    }


def _next(schedule: Schedule, now: datetime) -> dict[str, object]:
    following = next(schedule.fires(now), None)
    return {
        "next_fire_at": following,
        "due_at": None if following is None else schedule.starts_at(following),
    }


def _policies(policies: Policies) -> dict[str, object]:
    return {
        "overlap": policies.overlap.value,
        "misfire": policies.misfire.value,
        "catch_up": policies.catch_up,
        "window_seconds": policies.window_seconds,
        "jitter_seconds": policies.jitter_seconds,
        "late_seconds": policies.late_seconds,
    }


def _object(value: object) -> JsonObject:
    if not isinstance(value, dict):
        raise InvalidInputError("input must be an object.", field="input")
    return value


def _found(connection: Connection, actor: Actor, reference: str, *, lock: bool = False) -> Schedule:
    workspace = actor.workspace_id
    key = parse_uuid(reference) or rows.id_of_name(connection, reference, workspace=workspace)
    found = None if key is None else rows.get(connection, key, workspace=workspace, lock=lock)
    return present(found, "schedule", reference)


def _record(
    connection: Connection, actor: Actor, verb: str, schedule_id: UUID, **details: object
) -> None:
    audit.record(
        connection,
        actor,
        f"schedule.{verb}",
        [schedule_id],
        details=details,
        workspace_id=actor.workspace_id,
    )
