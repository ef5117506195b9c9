"""What runs on a worker, for Celery's remote control."""

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

import structlog

from celeriac.db import workers
from celeriac.db.engine import Database
from celeriac.db.executions import lifecycle, queries
from celeriac.domain.executions.states import Status

logger = structlog.get_logger(__name__)

_MOST = 5_000

_BY = "celery"
"""Who cancels executions by remote control."""


@dataclass(frozen=True, slots=True)
class Active:
    """An execution that runs; `started` in seconds since 1970."""

    execution_id: UUID
    celery_task_id: str
    attempt: int
    queue: str
    started: float
    pid: int


class RemoteControl:
    """Reads and writes what Celery's own state doesn't have, in the database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def active(self, node: str) -> list[Active]:
        """Return what runs in processes whose names begin with `node`, at most 5,000."""
        with self._database.autocommit() as connection:
            rows = workers.active_on(connection, node, limit=_MOST)
        return [
            Active(
                execution_id=row.id,
                celery_task_id=str(row.celery_task_id),
                attempt=row.attempt,
                queue=row.queue,
                started=float(row.started),
                pid=int(row.worker_hostname.rpartition("/")[2]),
            )
            for row in rows
        ]

    def cancel(self, celery_task_ids: Sequence[UUID]) -> list[str]:
        """Request the cancellation of running executions by their ids as Celery tasks.

        Their workers find it with the next heartbeat. Returns the ids that belong to such ones.
        """
        found: dict[UUID, str] = {}
        with self._database.transaction() as connection:
            for task_id in celery_task_ids:
                execution = queries.of_celery_task(connection, task_id)
                if execution is not None and execution.status is Status.RUNNING:
                    found[execution.id] = str(task_id)
            if found:
                lifecycle.request_cancel(connection, list(found), _BY)
        for execution_id in found:
            logger.info("execution.cancel_requested", execution_id=execution_id, by=_BY)
        return list(found.values())

    def close(self) -> None:
        """Close the connection."""
        self._database.close()
