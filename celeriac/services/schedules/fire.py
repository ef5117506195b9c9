"""Fires schedules. Any number of keepers may do so at once.

A turn of a schedule is one transaction: its row is claimed, each fire is inserted, unique on the
schedule and the time, with the execution or run that it starts, and the next time is stored. What
can be read and checked before is done before, so the row is locked for a few statements.
"""

from collections.abc import Callable
from datetime import datetime
from functools import partial
from typing import NamedTuple
from uuid import UUID

import structlog

from celeriac.db import accounts, engine, workspaces
from celeriac.db.engine import Connection, Database
from celeriac.db.executions.lifecycle import StaleSpecError
from celeriac.db.schedules import fires
from celeriac.db.schedules import schedules as rows
from celeriac.domain.accounts import Actor, Role
from celeriac.domain.errors import (
    DatabaseBusyError,
    DatabaseTimeoutError,
    DatabaseUnavailableError,
    ForbiddenError,
)
from celeriac.domain.schedules.inputs import input_of
from celeriac.domain.schedules.model import (
    FireKind,
    FireStatus,
    Schedule,
    SkipReason,
    Turn,
    turn_of,
)
from celeriac.domain.schedules.policies import Action, Overlap, Skipped, overlapping
from celeriac.services.executions.dispatch import Dispatch
from celeriac.services.schedules.late import Cause, tell_if_late
from celeriac.services.schedules.start import REFUSED, Start, Starter, Target

logger = structlog.get_logger(__name__)

STALE_TRIES = 3
"""How often a task may be changed between its check and its start."""

DATABASE_ERRORS = (DatabaseBusyError, DatabaseTimeoutError, DatabaseUnavailableError)

Clock = Callable[[Connection], datetime]
"""Returns the current time: that of the database, so that the clocks of keepers don't matter."""


class Prepared(NamedTuple):
    """What a fire starts, or why it can't."""

    start: Start | None
    error: str | None = None


class Fired(NamedTuple):
    """What was stored: the fire, and what it has started. It may also wait, or be skipped."""

    fire_id: UUID | None
    start: Start | None = None
    waits: bool = False


class FireSchedules:
    """The job of the keeper that fires schedules. Safe to share between threads."""

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

    def __call__(self, limit: int) -> int:
        """Take a turn of up to `limit` schedules that are due; return how many it has taken.

        A schedule that can't take its turn delays no other one. Raises errors of the database.
        """
        with self._database.autocommit() as connection:
            now = self._clock(connection)
            found = rows.due(connection, now, limit=limit)
        taken = 0
        for schedule in found:
            try:
                taken += self._turn(schedule, now)
            except DATABASE_ERRORS:
                raise
            except Exception:  # the others continue; this one stays due
                logger.exception("schedule.not_fired", schedule_id=schedule.id)
        if taken:
            self._dispatch.try_to_send()
        return taken

    def _turn(self, schedule: Schedule, now: datetime) -> bool:
        turn = turn_of(schedule, now)
        for attempt in range(STALE_TRIES):
            prepared = [
                (fire_at, self._prepare(schedule, fire_at, fresh=attempt > 0))
                for fire_at in turn.fires
            ]
            try:
                with self._database.transaction() as connection:
                    if not rows.claim(connection, schedule):
                        return False
                    self._store(connection, schedule, turn, prepared, now)
            except StaleSpecError:
                continue
            return True
        logger.warning("schedule.target_is_being_changed", schedule_id=schedule.id)
        return False

    def _prepare(self, schedule: Schedule, at: datetime, *, fresh: bool) -> Prepared:
        return prepare(
            self._database,
            self._starter,
            schedule,
            owner_id=schedule.owner_id,
            at=at,
            kind=FireKind.SCHEDULED,
            fresh=fresh,
        )

    def _store(
        self,
        connection: Connection,
        schedule: Schedule,
        turn: Turn,
        prepared: list[tuple[datetime, Prepared]],
        now: datetime,
    ) -> None:
        """Store the turn of a claimed schedule."""
        if turn.skipped is not None:
            skip(connection, schedule, turn.skipped, SkipReason.MISSED)
        under_way = UnderWay(connection, schedule)
        started = 0
        for fire_at, each in prepared:
            fired = fire(
                connection,
                schedule,
                fire_at,
                each,
                owner_id=schedule.owner_id,
                action=under_way.decide(),
            )
            under_way.note(fired)
            started += fired.start is not None
        if turn.skipped is not None or turn.fires:
            oldest = turn.fires[0] if turn.skipped is None else turn.skipped.first
            missed = 0 if turn.skipped is None else turn.skipped.count
            tell_if_late(
                connection, schedule, oldest, now, Cause.KEEPER, started=started, missed=missed
            )
        following = turn.next_fire_at
        rows.go_on(
            connection,
            schedule.id,
            next_fire_at=following,
            due_at=None if following is None else schedule.starts_at(following),
        )


class UnderWay:
    """What a schedule, which is locked, has started and has not ended, and its fires that wait."""

    def __init__(self, connection: Connection, schedule: Schedule) -> None:
        self._overlap = schedule.overlap
        self._unended = fires.unended(connection, [schedule.id])[schedule.id].number
        # that policy does not ask for it
        counted = schedule.overlap is not Overlap.ALLOW
        self._waiting = fires.count_waiting(connection, schedule.id)[0] if counted else 0

    def decide(self) -> Action:
        """Return what the policy says about the next fire."""
        return overlapping(self._overlap, unended=self._unended, waiting=self._waiting)

    def note(self, fired: Fired) -> None:
        """Note what became of the fire."""
        if fired.start is not None:
            self._unended += 1
        elif fired.waits:
            self._waiting += 1


def prepare(
    database: Database,
    starter: Starter,
    schedule: Schedule,
    *,
    owner_id: UUID,
    at: datetime,
    kind: FireKind,
    fresh: bool,
) -> Prepared:
    """Return what the fire of a schedule for `at` starts as `owner_id`, or why it can't."""
    try:
        actor = actor_of(database, schedule.workspace_id, owner_id)
        return Prepared(starter.prepare(actor, target_of(schedule, at, kind), fresh=fresh))
    except REFUSED as error:
        return Prepared(None, error.message)


def actor_of(database: Database, workspace_id: UUID, user_id: UUID) -> Actor:
    """Return a user for whom fires start. Raises ForbiddenError if they may start nothing."""
    with database.autocommit() as connection:
        role = workspaces.active_role(connection, workspace_id, user_id)
        user = accounts.user(connection, user_id)
    if role is None or user is None or not role.includes(Role.OPERATOR):
        raise ForbiddenError(
            "The owner, who made the schedule or asked for this fire, is no operator of the "
            "workspace any more; create the schedule anew as one who is."
        )
    return Actor(user_id=user_id, name=user.name, role=Role.OPERATOR, workspace_id=workspace_id)


def target_of(schedule: Schedule, at: datetime, kind: FireKind) -> Target:
    """Return what the fire of a schedule for `at` starts. Raises InvalidInputError."""
    given = input_of(schedule.input, at, schedule.zone, kind)
    return Target(schedule.task_id, schedule.workflow_id, given)


def skip(connection: Connection, schedule: Schedule, skipped: Skipped, reason: SkipReason) -> None:
    """Store fires that do not happen as one row."""
    fires.add(
        connection,
        schedule,
        skipped.first,
        owner_id=schedule.owner_id,
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
    owner_id: UUID,
    kind: FireKind = FireKind.SCHEDULED,
    action: Action,
) -> Fired:
    """Store a fire with what it starts, that it waits, or why it is skipped.

    Nothing is stored if the schedule has fired for this time before. The caller has locked the
    schedule. Raises StaleSpecError.
    """
    start = prepared.start
    add = partial(fires.add, connection, schedule, at, owner_id=owner_id, kind=kind)
    if start is None:
        return Fired(add(reason=SkipReason.REFUSED, error=prepared.error))
    if action is Action.SKIP:
        return Fired(add(reason=SkipReason.OVERLAP))
    if action is Action.WAIT:
        waiting = add(status=FireStatus.WAITING)
        return Fired(waiting, waits=waiting is not None)
    try:
        with connection.begin_nested():
            added = add(
                status=FireStatus.STARTED, execution_id=start.execution_id, run_id=start.run_id
            )
            if added is None:
                return Fired(None)
            start.store(connection)
    except REFUSED as error:
        return Fired(add(reason=SkipReason.REFUSED, error=error.message))
    return Fired(added, start)
