"""Starts fires that wait, when what their schedule has started before has ended.

Ends of executions and runs cost nothing for it: the keeper looks at the schedules of which fires
wait, about once a second. Fires of backfills begin here, too.
"""

from collections.abc import Sequence
from dataclasses import replace
from uuid import UUID

import structlog

from celeriac.db import engine
from celeriac.db.engine import Connection, Database
from celeriac.db.executions.lifecycle import StaleSpecError
from celeriac.db.schedules import fires
from celeriac.db.schedules import schedules as rows
from celeriac.db.schedules.fires import Unended
from celeriac.domain.errors import ForbiddenError
from celeriac.domain.schedules.model import FIRES_AT_ONCE, Fire, FireKind, Schedule, SkipReason
from celeriac.domain.schedules.policies import Overlap, startable
from celeriac.services.executions.dispatch import Dispatch
from celeriac.services.executions.stop import Cancel
from celeriac.services.schedules.fire import (
    DATABASE_ERRORS,
    STALE_TRIES,
    Clock,
    Prepared,
    actor_of,
    prepare,
)
from celeriac.services.schedules.late import Cause, tell_if_late
from celeriac.services.schedules.start import REFUSED, Starter
from celeriac.services.workflows.runs import Runs

logger = structlog.get_logger(__name__)

_FIRST = UUID(int=0)
_LOOKED_AT = 50
"""How many executions or runs of a schedule one look asks about."""

_BY = "schedule"
"""Who cancels what runs."""


class StartWaiting:
    """The job of the keeper that starts fires which wait. For one thread; any number of keepers."""

    def __init__(
        self,
        database: Database,
        starter: Starter,
        dispatch: Dispatch,
        cancel: Cancel,
        runs: Runs,
        *,
        clock: Clock = engine.clock,
    ) -> None:
        self._database = database
        self._starter = starter
        self._dispatch = dispatch
        self._cancel = cancel
        self._runs = runs
        self._clock = clock
        self._after = _FIRST

    def __call__(self, limit: int) -> int:
        """Look at up to `limit` schedules of which fires wait; return how many fires it started.

        It goes on after those that it has looked at last. A schedule that fails delays no other
        one. Raises errors of the database.
        """
        with self._database.autocommit() as connection:
            ids = fires.waiting_schedules(connection, after=self._after, limit=limit)
            self._after = ids[-1] if len(ids) == limit else _FIRST
            if not ids:
                return 0
            found = rows.among(connection, ids)
            unended = fires.unended(connection, ids, each=_LOOKED_AT)
        started = 0
        for schedule_id in ids:
            try:
                schedule = found.get(schedule_id)
                if schedule is None:
                    self._forget(schedule_id)
                else:
                    started += self._look(schedule, unended[schedule_id])
            except DATABASE_ERRORS:
                raise
            except Exception:  # the others continue; these wait on
                logger.exception("schedule.waiting_not_started", schedule_id=schedule_id)
        if started:
            self._dispatch.try_to_send()
        return started

    def _forget(self, schedule_id: UUID) -> None:
        with self._database.transaction() as connection:
            fires.skip_waiting(connection, schedule_id, SkipReason.DELETED)

    def _look(self, schedule: Schedule, unended: Unended) -> int:
        with self._database.autocommit() as connection:
            waiting = fires.waiting(connection, schedule.id, limit=FIRES_AT_ONCE)
        chosen = [waiting[at] for at in _places(waiting, unended.number)]
        if chosen:
            return self._start(schedule, chosen)
        if waiting and waiting[0].overlap is Overlap.CANCEL_RUNNING:
            self._cancel_running(waiting[0], unended)
        return 0

    def _start(self, schedule: Schedule, chosen: Sequence[Fire]) -> int:
        for attempt in range(STALE_TRIES):
            fresh = attempt > 0
            prepared = [(each, self._prepare(schedule, each, fresh=fresh)) for each in chosen]
            try:
                with self._database.transaction() as connection:
                    if not rows.claim_unchanged(connection, schedule):
                        return 0
                    return self._store(connection, schedule, prepared)
            except StaleSpecError:
                continue
        logger.warning("schedule.target_is_being_changed", schedule_id=schedule.id)
        return 0

    def _prepare(self, schedule: Schedule, fire: Fire, *, fresh: bool) -> Prepared:
        return prepare(
            self._database,
            self._starter,
            schedule,
            owner_id=fire.owner_id,
            at=fire.scheduled_at,
            kind=fire.kind,
            fresh=fresh,
        )

    def _store(
        self,
        connection: Connection,
        schedule: Schedule,
        prepared: Sequence[tuple[Fire, Prepared]],
    ) -> int:
        """Start the fires of a claimed schedule; return how many were started.

        Another keeper may have started something since they were chosen.
        """
        now = self._clock(connection)
        unended = fires.unended(connection, [schedule.id])[schedule.id].number
        started = 0
        for each, made in prepared:
            if each.overlap is not Overlap.ALLOW and unended + started > 0:
                continue
            if not _begin(connection, each, made):
                continue
            started += 1
            if each.kind is FireKind.SCHEDULED:
                tell_if_late(connection, schedule, each.scheduled_at, now, Cause.OVERLAP)
        return started

    def _cancel_running(self, fire: Fire, unended: Unended) -> None:
        """Cancel what a fire waits for; what is being cancelled already is not touched again."""
        try:
            actor = replace(actor_of(self._database, fire.workspace_id, fire.owner_id), name=_BY)
        except ForbiddenError as error:
            with self._database.transaction() as connection:
                fires.refuse(connection, fire.id, error.message)
            return
        if unended.executions:
            self._cancel.those(actor, unended.executions)
        for run_id in unended.runs:
            self._runs.cancel(actor, run_id)


def _places(waiting: Sequence[Fire], unended: int) -> tuple[int, ...]:
    return startable((each.overlap for each in waiting), unended=unended)


def _begin(connection: Connection, fire: Fire, prepared: Prepared) -> bool:
    """Start a fire that waits, or note why it can't; return whether it was started."""
    start = prepared.start
    if start is None:
        fires.refuse(connection, fire.id, prepared.error or "")
        return False
    try:
        with connection.begin_nested():
            if not fires.begin(
                connection, fire.id, execution_id=start.execution_id, run_id=start.run_id
            ):
                return False
            start.store(connection)
    except REFUSED as error:
        fires.refuse(connection, fire.id, error.message)
        return False
    return True
