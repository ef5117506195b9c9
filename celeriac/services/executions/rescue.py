"""Leases: the heartbeat that renews them, and the rescue of executions whose lease has expired."""

import time
from collections.abc import Callable, Sequence
from datetime import datetime
from uuid import UUID

import structlog
from sqlalchemy import Connection

from celeriac.db import audit, budgets, engine, workers
from celeriac.db.engine import Database
from celeriac.db.executions import leases, lifecycle, queries
from celeriac.db.executions.lifecycle import Rescued
from celeriac.db.executions.queries import QueuedCount
from celeriac.db.workers import WorkerReport
from celeriac.domain.errors import BrokerUnavailableError, DatabaseUnavailableError
from celeriac.domain.executions.states import Status
from celeriac.logs import Step
from celeriac.services.executions.attempt import Attempt, AttemptRegistry, StopReason
from celeriac.services.ports import LiveEvents, TaskQueue

logger = structlog.get_logger(__name__)

_CRASH_DELAY = 1.0
"""Seconds until the first retry after a lost worker; doubled with every further crash."""


def _elapsed_seconds() -> float:
    """Return a clock that nobody sets, and that counts while the machine sleeps if it can."""
    clock = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if clock is None else time.clock_gettime(clock)


class DatabaseView:
    """Whether a keeper has seen a writable database without a gap for as long as a lease lasts.

    While the database was away or could not write, nobody could renew a lease, and all of them may
    have run out. So nothing may be taken for lost until every worker had the time to renew. The
    keeper cannot see the outages of others, but it can see its own: a failed look, or two looks
    that are more than `longest_gap` seconds apart by its own clock or by the database's, begin a
    new series. That holds for outages, failovers, pauses of a pooler, a keeper or a machine that
    was stopped, and for clocks that jump. Belongs to one thread.
    """

    def __init__(
        self,
        lease_seconds: float,
        *,
        longest_gap: float | None = None,
        clock: Callable[[], float] = _elapsed_seconds,
    ) -> None:
        """The longest gap is half a lease by default: workers renew several times in one."""
        self._lease_seconds = lease_seconds
        self._longest_gap = lease_seconds / 2 if longest_gap is None else longest_gap
        self._clock = clock
        self._since = self._last = self._began = clock()
        self._last_time: datetime | None = None
        self._looking = False

    def begin_look(self) -> bool:
        """Return whether the series of looks so far is long enough to take leases in this one."""
        self._began = self._clock()
        if self._looking:  # the last one was never completed
            self._since = self._last = self._began
            self._last_time = None
        self._looking = True
        return self._began - self._since >= self._lease_seconds

    def complete_look(self, database_time: datetime) -> bool:
        """Say that the look was successful; return whether there was no gap since the last one.

        Where there was, what the look has done must not be committed.
        """
        self._looking = False
        last, last_time = self._last, self._last_time
        self._last, self._last_time = self._began, database_time
        passed = self._clock() - last
        if last_time is not None:
            passed = max(passed, (database_time - last_time).total_seconds())
        if passed <= self._longest_gap:
            return True
        logger.warning(
            "keeper.view_interrupted", seconds=round(passed, 3), waits=self._lease_seconds
        )
        self._since = self._last = self._clock()
        return False


class Recover:
    """What the keeper brings back; any number of keepers may do it at once.

    Each method belongs to one thread: two of them remember what they saw at their last look.
    """

    def __init__(
        self, database: Database, queue: TaskQueue, live: LiveEvents, view: DatabaseView
    ) -> None:
        """Recover the executions of `database` and the messages of `queue`.

        Workers count as lost only while `view` says so.
        """
        self._database = database
        self._queue = queue
        self._live = live
        self._view = view
        self._short_since: dict[str, float] = {}

    def rescue_lost_workers(self, limit: int) -> int:
        """Take executions with expired leases from their workers; return how many.

        None before the database has been seen without a gap for the time of a lease.
        """
        settled = self._view.begin_look()
        with self._database.transaction() as connection:
            now = engine.clock(connection)
            rescued = lifecycle.rescue_expired(
                connection, limit=limit if settled else 0, base_delay=_CRASH_DELAY
            )
            for item in rescued:
                if item.status is Status.FAILED:
                    _audit(connection, item)
            if not self._view.complete_look(now):
                connection.rollback()
                return 0
        for item in rescued:
            logger.error(
                Step.EXECUTION_WORKER_LOST,
                **item.cause.ids(),
                execution_id=item.execution_id,
                worker=item.worker,
                attempt=item.attempt,
                crash_count=item.crash_count,
                status=item.status,
            )
        self._live.changed([item.execution_id for item in rescued])
        return len(rescued)

    def resume_due(self, limit: int) -> int:
        """Let parked executions go on whose time of waiting is over; return how many."""
        with self._database.statement() as connection:
            ids = lifecycle.resume_due(connection, limit=limit)
        for execution_id in ids:
            logger.info(Step.EXECUTION_RESUMED, execution_id=execution_id)
        self._live.changed(ids)
        return len(ids)

    def leaked_reservations(self, limit: int) -> int:
        """Release what attempts reserved that don't run any more; return in how many windows."""
        with self._database.statement() as connection:
            return budgets.release_leaked(connection, limit=limit)

    def requeue_lost_messages(self, *, older_than: float, limit: int) -> int:
        """Put back to `pending` what is queued although the broker has no message for it.

        A queue has lost messages if it holds fewer than there are rows waiting in it for over
        `older_than` seconds, or if for that long it held fewer, at every look, than there are
        queued rows: what is on its way to or from the broker is missing for a moment only. Which
        ones can't be told, so all of those rows are sent again: a double costs one dropped message.
        Returns how many rows were put back.
        """
        with self._database.statement() as connection:
            waiting = queries.queued_counts(connection, older_than=older_than)
        self._short_since = {name: at for name, at in self._short_since.items() if name in waiting}
        total = 0
        for name, rows in waiting.items():
            if not self._has_lost(name, rows, older_than):
                continue
            with self._database.statement() as connection:
                ids = lifecycle.resend(connection, name, older_than=older_than, limit=limit)
            logger.warning("queue.messages_lost", queue=name, resent=len(ids))
            self._live.changed(ids)
            total += len(ids)
        return total

    def _has_lost(self, queue: str, rows: QueuedCount, older_than: float) -> bool:
        try:
            depth = self._queue.depth(queue)
        except BrokerUnavailableError:
            return False  # nothing can be said, and nothing could be sent
        if depth >= rows.all:
            self._short_since.pop(queue, None)
            return False
        since = self._short_since.setdefault(queue, time.monotonic())
        return depth < rows.old or time.monotonic() - since >= older_than


def _audit(connection: Connection, lost: Rescued) -> None:
    audit.failed(
        connection,
        lost.execution_id,
        actor="keeper",
        request_id=lost.cause.request_id,
        details={"code": "worker_lost", "message": lost.message, "attempt": lost.attempt},
    )


class Heartbeat:
    """Keeps the leases of all running attempts, in one statement a beat.

    `database` must be its own: a beat that waits for a connection which others hold comes too late.
    Belongs to one thread.
    """

    def __init__(
        self, database: Database, active: AttemptRegistry, *, lease_seconds: float
    ) -> None:
        """Renew for `lease_seconds` from now on at each beat."""
        self._database = database
        self._active = active
        self._lease_seconds = lease_seconds
        self._skipped: frozenset[UUID] = frozenset()

    def beat(self) -> None:
        """Renew every lease; stop what was cancelled and what is no longer ours.

        Without the database nothing is stopped: nobody can take a lease while it is away.
        """
        self._renew(self._active.all())

    def catch_up(self) -> None:
        """Renew the leases that the last beat had to skip, because others had locked their rows.

        A row that is locked again and again must be met in between: call this often.
        """
        if self._skipped:
            self._renew([a for a in self._active.all() if a.lease.execution_id in self._skipped])

    def _renew(self, attempts: Sequence[Attempt]) -> None:
        if not attempts:
            self._skipped = frozenset()
            return
        asked = [attempt.lease for attempt in attempts]
        try:
            with self._database.statement() as connection:
                found = leases.renew(connection, asked, lease_seconds=self._lease_seconds)
        except DatabaseUnavailableError as error:
            logger.warning("heartbeat.database_unavailable", code=error.code, error=error.message)
            return
        self._skipped = found.skipped
        # Not by their executions: meanwhile the next attempt of one may have begun here.
        for attempt in attempts:
            if attempt.lease.execution_id not in found.held:
                attempt.stop(StopReason.LEASE_LOST)
            elif found.held[attempt.lease.execution_id]:
                attempt.stop(StopReason.CANCELLED)

    def report(self, report: WorkerReport) -> bool:
        """Store what the process says of itself; return whether that was possible now."""
        try:
            with self._database.statement() as connection:
                workers.report(connection, report)
        except DatabaseUnavailableError as error:
            logger.warning("worker.not_reported", code=error.code, error=error.message)
            return False
        return True

    def sign_off(self, worker_id: UUID) -> None:
        """Store that the process has ended in order, where that is possible now."""
        try:
            with self._database.statement() as connection:
                workers.stopped(connection, worker_id)
        except DatabaseUnavailableError as error:
            logger.warning("worker.not_signed_off", code=error.code, error=error.message)
