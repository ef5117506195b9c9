"""Fires schedules. Any number of keepers may do so at once.

A turn of a schedule is one transaction: its row is claimed, each fire is inserted, unique on the
schedule and the time, with the execution or run that it starts, and the next time is stored. What
can be read and checked before is done before, so the row is locked for a few statements.
"""

from datetime import datetime
from functools import partial
from typing import NamedTuple
from uuid import UUID

import structlog

from celeriac.db import accounts, engine, workspaces
from celeriac.db import schedules as rows
from celeriac.db.engine import Connection, Database
from celeriac.db.executions.lifecycle import StaleSpecError
from celeriac.domain.accounts import Actor, Role
from celeriac.domain.errors import (
    DatabaseBusyError,
    DatabaseTimeoutError,
    DatabaseUnavailableError,
    ForbiddenError,
)
from celeriac.domain.schedules.model import FireKind, Schedule, SkipReason, Turn, turn_of
from celeriac.domain.schedules.policies import Overlap, Skipped
from celeriac.services.executions.dispatch import Dispatch
from celeriac.services.schedules.start import REFUSED, Start, Starter, Target

logger = structlog.get_logger(__name__)

STALE_TRIES = 3
"""How often a task may be changed between its check and its start."""

_DATABASE = (DatabaseBusyError, DatabaseTimeoutError, DatabaseUnavailableError)


class Prepared(NamedTuple):
    """What a fire starts, or why it can't."""

    start: Start | None
    error: str | None = None


class Fired(NamedTuple):
    """What was stored: the fire, and what it has started."""

    fire_id: UUID | None
    start: Start | None = None


class FireSchedules:
    """The job of the keeper that fires schedules. Safe to share between threads."""

    def __init__(self, database: Database, starter: Starter, dispatch: Dispatch) -> None:
        self._database = database
        self._starter = starter
        self._dispatch = dispatch

    def __call__(self, limit: int) -> int:
        """Take a turn of up to `limit` schedules that are due; return how many it has taken.

        A schedule that can't take its turn delays no other one. Raises errors of the database.
        """
        with self._database.autocommit() as connection:
            now = engine.clock(connection)
            found = rows.due(connection, limit=limit)
        taken = 0
        for schedule in found:
            try:
                taken += self._turn(schedule, now)
            except _DATABASE:
                raise
            except Exception:  # the others go on; this one stays due
                logger.exception("schedule.not_fired", schedule_id=schedule.id)
        if taken:
            self._dispatch.try_to_send()
        return taken

    def _turn(self, schedule: Schedule, now: datetime) -> bool:
        turn = turn_of(schedule, now)
        for attempt in range(STALE_TRIES):
            prepared = [
                (fire_at, self._prepare(schedule, fresh=attempt > 0)) for fire_at in turn.fires
            ]
            try:
                with self._database.transaction() as connection:
                    if not rows.claim(connection, schedule):
                        return False
                    self._store(connection, schedule, turn, prepared)
            except StaleSpecError:
                continue
            return True
        logger.warning("schedule.target_is_being_changed", schedule_id=schedule.id)
        return False

    def _prepare(self, schedule: Schedule, *, fresh: bool) -> Prepared:
        try:
            actor = self._owner(schedule)
            return Prepared(self._starter.prepare(actor, target_of(schedule), fresh=fresh))
        except REFUSED as error:
            return Prepared(None, error.message)

    def _owner(self, schedule: Schedule) -> Actor:
        """Return the schedule's owner. Raises ForbiddenError if they may start nothing any more."""
        with self._database.autocommit() as connection:
            role = workspaces.active_role(connection, schedule.workspace_id, schedule.owner_id)
            user = accounts.user(connection, schedule.owner_id)
        if role is None or user is None or not role.includes(Role.OPERATOR):
            raise ForbiddenError(
                "The owner of the schedule is no operator of the workspace any more; create the "
                "schedule anew as one who is."
            )
        return Actor(
            user_id=schedule.owner_id,
            name=user.name,
            role=Role.OPERATOR,
            workspace_id=schedule.workspace_id,
        )

    def _store(
        self,
        connection: Connection,
        schedule: Schedule,
        turn: Turn,
        prepared: list[tuple[datetime, Prepared]],
    ) -> None:
        """Store the turn of a claimed schedule."""
        if turn.skipped is not None:
            skip(connection, schedule, turn.skipped, SkipReason.MISSED)
        running = rows.running(connection, schedule.id)
        for fire_at, each in prepared:
            overlaps = running > 0 and schedule.overlap is Overlap.SKIP
            if fire(connection, schedule, fire_at, each, overlaps=overlaps).start is not None:
                running += 1
        following = turn.next_fire_at
        rows.go_on(
            connection,
            schedule.id,
            next_fire_at=following,
            due_at=None if following is None else schedule.starts_at(following),
        )


def target_of(schedule: Schedule) -> Target:
    """Return what a schedule starts."""
    return Target(schedule.task_id, schedule.workflow_id, schedule.input)


def skip(connection: Connection, schedule: Schedule, skipped: Skipped, reason: SkipReason) -> None:
    """Store fires that do not happen as one row."""
    rows.add_fire(
        connection,
        schedule,
        skipped.first,
        reason=reason,
        number=skipped.count,
        last_at=skipped.last if skipped.count > 1 else None,
    )


def fire(
    connection: Connection,
    schedule: Schedule,
    at: datetime,
    prepared: Prepared,
    *,
    kind: FireKind = FireKind.SCHEDULED,
    overlaps: bool,
) -> Fired:
    """Store a fire with what it starts, or why not.

    Nothing is stored if the schedule has fired for this time before. It is skipped if it
    `overlaps`. The caller has locked the schedule. Raises StaleSpecError.
    """
    start, add = prepared.start, partial(rows.add_fire, connection, schedule, at, kind=kind)
    if start is None:
        return Fired(add(reason=SkipReason.REFUSED, error=prepared.error))
    if overlaps:
        return Fired(add(reason=SkipReason.OVERLAP))
    try:
        with connection.begin_nested():
            added = add(execution_id=start.execution_id, run_id=start.run_id)
            if added is None:
                return Fired(None)
            start.store(connection)
    except REFUSED as error:
        return Fired(add(reason=SkipReason.REFUSED, error=error.message))
    return Fired(added, start)
