"""The lease of a worker process: its registration, its renewal, and its attempts.

A process has one lease for everything that it runs, in its row of `workers`
(docs/adr/0033-leases-per-worker-process.md).
"""

import random
from collections.abc import Callable, Sequence
from contextlib import suppress
from uuid import UUID

import structlog

from celeriac.db import workers
from celeriac.db.engine import Connection, Database
from celeriac.db.executions import leases, lifecycle, pauses
from celeriac.db.executions.leases import Held
from celeriac.domain.errors import DatabaseBusyError, DatabaseUnavailableError
from celeriac.domain.executions.model import HandedBack, Lease, WorkerIdentity
from celeriac.domain.operations import WorkerReport
from celeriac.kit.backoff import grown
from celeriac.logs import Step
from celeriac.services.executions.attempt import (
    Attempt,
    AttemptRegistry,
    Registration,
    StopReason,
)

logger = structlog.get_logger(__name__)

_MOST_HANDED_BACK = 100
"""Executions that one beat hands back: the next renewal must not be late."""

_LONGEST_DELAY = 300.0
"""The longest delay of an execution that its worker did not know of; it doubles each time."""


class Heartbeat:
    """Renews the lease of this process and compares what it runs with what the database says.

    Needs a connection pool of its own: a beat that waits for a connection comes too late. Belongs
    to one thread.
    """

    def __init__(
        self,
        database: Database,
        attempts: AttemptRegistry,
        registration: Registration,
        describe: Callable[[UUID], WorkerReport],
        *,
        lease_seconds: float,
    ) -> None:
        """`describe` returns the present report of this process under an id."""
        self._database = database
        self._attempts = attempts
        self._registration = registration
        self._describe = describe
        self._lease_seconds = lease_seconds

    @property
    def is_due(self) -> bool:
        """Whether a claim waits for the next beat."""
        return not self._registration.valid

    def beat(self) -> None:
        """Renew the lease, reconcile what runs, and note whether the worker is paused.

        Stops attempts that were cancelled or are not this process's any more, and hands back
        executions that it should run but does not know of. If the database is unavailable nothing
        is stopped: no lease can be taken then.
        """
        # Before the statement: what runs now was claimed before, so the answer must have it.
        attempts = self._attempts.all()
        try:
            with self._database.autocommit() as connection:
                renewed = leases.renew(
                    connection, self._registration.worker.id, lease_seconds=self._lease_seconds
                )
                if renewed is None:
                    self._register(connection, attempts)
                    return
                self._registration.renewed(paused=renewed.paused)
                self._stop(attempts, renewed.held)
            self._hand_back(renewed.held)
        except DatabaseUnavailableError as error:
            logger.warning("heartbeat.database_unavailable", code=error.code, error=error.message)

    def _register(self, connection: Connection, attempts: Sequence[Attempt]) -> None:
        """Insert the row of this process; if the one that it had is lost, under a new identity.

        A row that is gone is inserted again: the next beat finds which attempts are held.
        """
        worker = self._registration.worker
        if not self._insert(connection, worker):
            logger.error("worker.declared_lost", worker_id=worker.id, executions=len(attempts))
            for attempt in attempts:
                attempt.stop(StopReason.LEASE_LOST)
            self._insert(connection, self._registration.replace())
        self._registration.renewed(paused=pauses.of_worker(connection, worker.node))

    def _insert(self, connection: Connection, worker: WorkerIdentity) -> bool:
        report = self._describe(worker.id)
        return workers.register(connection, report, lease_seconds=self._lease_seconds)

    @staticmethod
    def _stop(attempts: Sequence[Attempt], held: Sequence[Held]) -> None:
        # Stop these attempts, not what runs now: the next attempt may have started here.
        cancelled = {each.lease.token: each.cancelled for each in held}
        for attempt in attempts:
            if attempt.lease.token not in cancelled:
                attempt.stop(StopReason.LEASE_LOST)
            elif cancelled[attempt.lease.token]:
                attempt.stop(StopReason.CANCELLED)

    def _hand_back(self, held: Sequence[Held]) -> None:
        """Hand back what this process has claimed and does not know of.

        That is a claim whose answer was lost for good, or an outcome that could not be stored. One
        that somebody has locked waits for a later beat: this one must not be late.
        """
        known = self._attempts.tokens()  # after the statement: tokens are known before they claim
        forgotten = [each.lease for each in held if each.lease.token not in known]
        for lease in forgotten[:_MOST_HANDED_BACK]:
            seconds = grown(1.0, lease.attempt, _LONGEST_DELAY) * random.uniform(0.5, 1)
            hand_back(self._database, lease, seconds, skip_locked=True)

    def report(self) -> bool:
        """Store the report of the process; return whether that was possible."""
        report = self._describe(self._registration.worker.id)
        try:
            with self._database.autocommit() as connection:
                workers.report(connection, report)
        except DatabaseUnavailableError as error:
            logger.warning("worker.not_reported", code=error.code, error=error.message)
            return False
        return True

    def sign_off(self) -> None:
        """Hand back all that the process has and record its normal end, if that is possible.

        Of what somebody has locked, one lock is waited for in vain. The keeper hands back the rest,
        and a claim that commits meanwhile.
        """
        worker_id = self._registration.worker.id
        try:
            with self._database.autocommit() as connection:
                renewed = leases.renew(connection, worker_id, lease_seconds=self._lease_seconds)
            locked = [
                each.lease
                for each in (renewed.held if renewed else ())
                if not hand_back(self._database, each.lease, 0, skip_locked=True)
            ]
            with suppress(DatabaseBusyError):
                for lease in locked:
                    hand_back(self._database, lease, 0)
            with self._database.autocommit() as connection:
                workers.stopped(connection, worker_id)
        except DatabaseUnavailableError as error:
            logger.warning("worker.not_signed_off", code=error.code, error=error.message)


def hand_back(
    database: Database,
    lease: Lease,
    seconds: float,
    *,
    skip_locked: bool = False,
    reason: str = "the worker does not run it",
) -> bool:
    """Hand back an attempt if it still runs; return False if somebody else has locked its row."""
    ids = [lease.execution_id]
    with database.transaction() as connection:
        # it may have stored questions
        if not lifecycle.hold(connection, ids, skip_locked=skip_locked):
            return False
        finished = lifecycle.finish(connection, lease, HandedBack(None, seconds))
    if finished.status is not None and not finished.again:
        logger.warning(
            Step.EXECUTION_HANDED_BACK,
            execution_id=lease.execution_id,
            attempt=lease.attempt,
            status=finished.status,
            reason=reason,
        )
    return True
