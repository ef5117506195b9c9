"""Schedules of a workspace: created, changed, paused, run by hand, and their fires listed."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from functools import partial
from itertools import islice

import structlog

from celeriac.db import engine
from celeriac.db.engine import Database
from celeriac.db.executions.lifecycle import StaleSpecError
from celeriac.db.schedules import fires
from celeriac.db.schedules import schedules as rows
from celeriac.domain.accounts import Actor, Role
from celeriac.domain.errors import ConflictError, InvalidInputError
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
)
from celeriac.domain.schedules.policies import (
    MAX_WAITING,
    Action,
    Overlap,
)
from celeriac.domain.schedules.zones import time_zone
from celeriac.kit.json_types import JsonObject
from celeriac.kit.words import counted
from celeriac.services.executions.dispatch import Dispatch
from celeriac.services.reading import present, read_page
from celeriac.services.schedules import stored
from celeriac.services.schedules.fire import (
    STALE_TRIES,
    Clock,
    Prepared,
    UnderWay,
    fire,
    target_of,
)
from celeriac.services.schedules.start import Starter, Target
from celeriac.services.schedules.stored import NewSchedule

logger = structlog.get_logger(__name__)

_TIMING = frozenset({"cron", "every_seconds", "at"})


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
        with self._database.transaction() as connection:
            made = stored.add(connection, actor, new, self._clock(connection))
        logger.info("schedule.created", schedule_id=made.id)
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
            return stored.found(connection, actor, reference)

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
            before = stored.found(connection, actor, reference, lock=True)
            after = stored.change(connection, actor, before, values, self._clock(connection))
        logger.info("schedule.changed", schedule_id=after.id)
        return after

    def delete(self, actor: Actor, reference: str) -> None:
        """Delete a schedule; what it has started is not cancelled, what waits never starts.

        Raises ForbiddenError and NotFoundError.
        """
        actor.require(Role.OPERATOR)
        with self._database.transaction() as connection:
            schedule_id = stored.found(connection, actor, reference, lock=True).id
            fires.skip_waiting(connection, schedule_id, SkipReason.DELETED)
            rows.delete(connection, schedule_id)
            stored.record(connection, actor, "delete", schedule_id)
        logger.info("schedule.deleted", schedule_id=schedule_id)

    def pause(self, actor: Actor, reference: str) -> Schedule:
        """Let a schedule not fire until it is resumed; its fires that wait are skipped.

        Raises ForbiddenError, NotFoundError.
        """
        actor.require(Role.OPERATOR)
        with self._database.transaction() as connection:
            found = stored.found(connection, actor, reference, lock=True)
            stored.pause(connection, actor, found)
            return stored.found(connection, actor, reference)

    def resume(self, actor: Actor, reference: str, *, catch_up: bool = False) -> Schedule:
        """Let a paused schedule fire again.

        Its fires during the pause are skipped, and are one row with the reason `paused`. With
        `catch_up` they count as missed, and its policy decides about them. Raises ForbiddenError,
        NotFoundError.
        """
        actor.require(Role.OPERATOR)
        with self._database.transaction() as connection:
            found = stored.found(connection, actor, reference, lock=True)
            stored.resume(connection, actor, found, self._clock(connection), catch_up=catch_up)
            return stored.found(connection, actor, reference)

    def run(self, actor: Actor, reference: str, *, force: bool = False) -> Fire:
        """Start what a schedule starts, now, as `actor`; its next fire stays as it is.

        While an earlier one runs, the policy of the schedule decides, unless `force`. Raises
        ForbiddenError, NotFoundError, and what a start of the task or workflow raises.
        """
        actor.require(Role.OPERATOR)
        with self._database.autocommit() as connection:
            at = self._clock(connection)
            target = target_of(stored.found(connection, actor, reference), at, FireKind.MANUAL)
        for attempt in range(STALE_TRIES):
            start = self._starter.prepare(actor, target, fresh=attempt > 0)
            try:
                with self._database.transaction() as connection:
                    schedule = stored.found(connection, actor, reference, lock=True)
                    fired = fire(
                        connection,
                        schedule,
                        at,
                        Prepared(start),
                        owner_id=actor.user_id,
                        kind=FireKind.MANUAL,
                        action=Action.START if force else UnderWay(connection, schedule).decide(),
                    )
                    stored.record(connection, actor, "run", schedule.id, force=force)
                    happened = fires.get(connection, present(fired.fire_id, "fire", reference))
            except StaleSpecError:
                continue
            if fired.start is not None:
                fired.start.begin()
                self._dispatch.try_to_send()
            return happened
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
            schedule = stored.found(connection, actor, reference, lock=not dry_run)
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
            stored.record(
                connection, actor, "backfill", schedule.id, fires=len(wanted.fires), **details
            )
        logger.info("schedule.backfilled", schedule_id=schedule.id, fires=len(wanted.fires))
        return wanted

    def preview(self, actor: Actor, reference: str, *, number: int) -> tuple[str, list[Preview]]:
        """Return the zone and the next fires, `number` at most, also of a paused schedule.

        Raises NotFoundError.
        """
        with self._database.autocommit() as connection:
            schedule = stored.found(connection, actor, reference)
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


def _object(value: object) -> JsonObject:
    if not isinstance(value, dict):
        raise InvalidInputError("input must be an object.", field="input")
    return value
