"""What the maintenance jobs have done: each one's latest run is a row."""

import threading
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace

import structlog

from celeriac.db import maintenance
from celeriac.db.engine import Database
from celeriac.domain.accounts import Actor
from celeriac.domain.errors import DatabaseUnavailableError
from celeriac.domain.operations import JobReport, JobRow
from celeriac.logs.redact import clip

logger = structlog.get_logger(__name__)

_RECORD_SECONDS = 60.0
"""How often a job that works is recorded: some run several times a second."""

_LONGEST_ERROR = 500


class JobRecord:
    """Stores the latest run of each job. Safe to share between threads."""

    def __init__(
        self,
        database: Database,
        names: Collection[str],
        *,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """Store the runs of jobs with these names; forget others that nobody runs any more."""
        self._database = database
        self._names = names
        self._now = now
        self._lock = threading.Lock()
        self._next: dict[str, float] = {}
        self._failed: set[str] = set()
        self._forgotten = False

    def __call__(self, ended: JobReport) -> None:
        """Store a run, at most one a minute while the job works, or while it fails.

        Never raises. A run that can't be stored is logged, and the next one is stored.
        """
        if not self._is_due(ended):
            return
        error = None if ended.error is None else clip(ended.error, _LONGEST_ERROR)
        try:
            with self._database.autocommit() as connection:
                maintenance.record(connection, replace(ended, error=error))
                if not self._forgotten:
                    maintenance.forget(connection, self._names)
                    self._forgotten = True
        except DatabaseUnavailableError as away:
            logger.warning("keeper.job_not_recorded", job=ended.name, error=away.message)
            return
        with self._lock:
            self._next[ended.name] = self._now() + _RECORD_SECONDS
            (self._failed.add if ended.failures else self._failed.discard)(ended.name)

    def _is_due(self, ended: JobReport) -> bool:
        with self._lock:
            changed = (ended.failures > 0) is not (ended.name in self._failed)
            return changed or self._now() >= self._next.get(ended.name, 0.0)


class MaintenanceJobs:
    """Shows administrators what the maintenance jobs have done."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def find(self, actor: Actor) -> Sequence[JobRow]:
        """Return the latest run of each job, by name. Raises ForbiddenError."""
        actor.require_administrator()
        with self._database.autocommit() as connection:
            return maintenance.find(connection)
