"""The rescue of executions from lost workers, and of lost messages."""

import time
from collections.abc import Callable
from datetime import datetime

import structlog

from celeriac.db import engine
from celeriac.db.budgets import reservations
from celeriac.db.engine import Database
from celeriac.db.executions import children, lifecycle, queries
from celeriac.db.executions.queries import QueuedCount
from celeriac.domain.errors import BrokerUnavailableError
from celeriac.logs import Step
from celeriac.services.executions.heartbeat import hand_back
from celeriac.services.executions.stop import AfterEnds
from celeriac.services.ports import LiveEvents, TaskQueue

logger = structlog.get_logger(__name__)

_CRASH_DELAY = 1.0
"""Seconds until the first retry after a lost worker; doubled with each further crash."""

_AHEAD_SECONDS = 60.0
"""How far in the future a worker must have been seen to be lost; more than an unnoticed step."""


def _elapsed_seconds() -> float:
    """Return monotonic seconds, including the time that the machine sleeps where possible."""
    clock = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if clock is None else time.clock_gettime(clock)


class DatabaseView:
    """Whether a keeper has seen a writable database without a gap for one lease time.

    While the database is unavailable or read-only, no worker can renew its lease, and all of them
    may expire. So no worker may be considered lost until all had the time to renew. The keeper
    can't see the outages of others, but it sees its own: a failed check, or two checks that are
    more than `longest_gap` seconds apart by its own clock or by the database's, start a new series.
    So does a clock of the database that was set back by as much.
    That covers outages, failovers, paused poolers, a stopped keeper or machine, and clocks that
    jump. Belongs to one thread.
    """

    def __init__(
        self,
        lease_seconds: float,
        *,
        longest_gap: float | None = None,
        clock: Callable[[], float] = _elapsed_seconds,
    ) -> None:
        """The longest gap is half a lease by default: workers renew several times per lease."""
        self.lease_seconds = lease_seconds
        self._longest_gap = lease_seconds / 2 if longest_gap is None else longest_gap
        self._clock = clock
        self._since = self._last = self._began = clock()
        self._last_time: datetime | None = None
        self._checking = False

    def begin_check(self) -> bool:
        """Start a check; return whether the series so far is long enough to take leases."""
        self._began = self._clock()
        if self._checking:  # the last check failed
            self._since = self._last = self._began
            self._last_time = None
        self._checking = True
        return self._began - self._since >= self.lease_seconds

    def complete_check(self, database_time: datetime) -> bool:
        """Complete a check; return whether there was no gap since the last one.

        If there was, the transaction of this check must not be committed.
        """
        self._checking = False
        last, last_time = self._last, self._last_time
        self._last, self._last_time = self._began, database_time
        passed = self._clock() - last
        if last_time is not None:
            on_server = (database_time - last_time).total_seconds()
            set_back = self._began - last - on_server
            passed = max(passed, on_server, set_back)
        if passed <= self._longest_gap:
            return True
        logger.warning(
            "keeper.view_interrupted", seconds=round(passed, 3), waits=self.lease_seconds
        )
        self._since = self._last = self._clock()
        return False


class Recover:
    """Recovers lost executions and messages; any number of keepers may do it at once.

    Each method belongs to one thread: two of them remember the result of their last check.
    """

    def __init__(
        self,
        database: Database,
        queue: TaskQueue,
        live: LiveEvents,
        view: DatabaseView,
        ended: AfterEnds | None = None,
    ) -> None:
        """Recover the executions of `database` and the messages of `queue`.

        Leases are taken only if `view` allows it. `ended` is called for executions that the rescue
        has ended.
        """
        self._ended = ended
        self._database = database
        self._queue = queue
        self._live = live
        self._view = view
        self._short_since: dict[str, float] = {}

    def rescue_lost_workers(self, limit: int) -> int:
        """Take executions from workers that are lost or have stopped; return how many.

        None from lost ones until the database has been seen without a gap for one lease time.
        What a worker has left that has stopped in order is handed back, which is no crash.
        """
        taken = self._take_back(limit)
        settled = self._view.begin_check()
        with self._database.transaction() as connection:
            now = engine.clock(connection)
            rescued = lifecycle.rescue_lost(
                connection,
                limit=limit if settled else 0,
                base_delay=_CRASH_DELAY,
                ahead=max(_AHEAD_SECONDS, self._view.lease_seconds),
            )
            if not self._view.complete_check(now):
                connection.rollback()
                return taken
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
        if self._ended is not None:
            self._ended([item.execution_id for item in rescued if item.status.terminal])
        return taken + len(rescued)

    def _take_back(self, limit: int) -> int:
        with self._database.autocommit() as connection:
            left = lifecycle.left_behind(connection, limit=limit)
        taken = [
            lease.execution_id
            for lease in left
            if hand_back(
                self._database, lease, 0, skip_locked=True, reason="its worker has stopped"
            )
        ]
        self._live.changed(taken)
        return len(taken)

    def resume_due(self, limit: int) -> int:
        """Resume parked executions that are due; return how many."""
        with self._database.autocommit() as connection:
            ids = lifecycle.resume_due(connection, limit=limit)
        for execution_id in ids:
            logger.info(Step.EXECUTION_RESUMED, execution_id=execution_id)
        self._live.changed(ids)
        return len(ids)

    def release_siblings(self, limit: int) -> int:
        """Release children of which fewer run than may run at once; return how many."""
        with self._database.autocommit() as connection:
            return len(children.release(connection, limit=limit))

    def release_leaked_reservations(self, limit: int) -> int:
        """Release reservations of attempts that no longer run; return in how many windows."""
        with self._database.autocommit() as connection:
            return reservations.release_leaked(connection, limit=limit)

    def requeue_lost_messages(self, *, older_than: float, limit: int) -> int:
        """Return `queued` rows to `pending` if the broker has lost their messages.

        A queue has lost messages if it has fewer than there are rows that were sent more than
        `older_than` seconds ago, or if for that long it had fewer, at every check, than there are
        queued rows: a message on its way is missing only for a moment. It is unknown which messages
        are lost, so all of those rows are sent again; a duplicate is dropped. Returns the number of
        rows.
        """
        with self._database.autocommit() as connection:
            waiting = queries.queued_counts(connection, older_than=older_than)
        self._short_since = {name: at for name, at in self._short_since.items() if name in waiting}
        total = 0
        for name, rows in waiting.items():
            if not self._has_lost(name, rows, older_than):
                continue
            with self._database.autocommit() as connection:
                ids = lifecycle.resend(connection, name, older_than=older_than, limit=limit)
            logger.warning("queue.messages_lost", queue=name, resent=len(ids))
            self._live.changed(ids)
            total += len(ids)
        return total

    def _has_lost(self, queue: str, rows: QueuedCount, older_than: float) -> bool:
        try:
            depth = self._queue.depth(queue)
        except BrokerUnavailableError:
            return False  # unknown, and nothing could be sent
        if depth >= rows.all:
            self._short_since.pop(queue, None)
            return False
        since = self._short_since.setdefault(queue, time.monotonic())
        return depth < rows.old or time.monotonic() - since >= older_than
