"""Health: whether the API's servers answer, and which workers are live."""

from collections.abc import Callable
from dataclasses import dataclass

from celeriac.db import engine, migrate, workers
from celeriac.db.engine import Database
from celeriac.domain.errors import UnavailableError
from celeriac.domain.operations import WorkerRow

OK = "ok"

_DISK_FULL_SECONDS = 30.0
"""How long the last write that failed on a full disk counts; a probe writes nothing itself."""


@dataclass(frozen=True, slots=True)
class Readiness:
    """The result of each check: `ok`, or what is wrong.

    `serving` is False if requests can't be answered. Without Redis they can: executions are stored
    and sent later.
    """

    checks: dict[str, str]
    serving: bool

    @property
    def status(self) -> str:
        """`ok`, `degraded` or `unavailable`."""
        if not self.serving:
            return "unavailable"
        return OK if all(found == OK for found in self.checks.values()) else "degraded"


class HealthChecks:
    """Checks the servers. Safe to share between threads."""

    def __init__(
        self, database: Database, redis_ping: Callable[[], None], *, worker_seconds: float
    ) -> None:
        """`redis_ping` raises UnavailableError; a worker without a report for so long is gone."""
        self._database = database
        self._redis_ping = redis_ping
        self._worker_seconds = worker_seconds

    def readiness(self) -> Readiness:
        """Check the database, its schema and Redis.

        Writes nothing: a full disk is known from the last statements of this process.
        """
        checks = {"database": OK, "schema": OK, "redis": OK}
        try:
            with self._database.autocommit() as connection:
                schema = migrate.schema(connection)
                if engine.read_only(connection):
                    checks["database"] = "is read-only"
                elif self._database.disk_full_within(_DISK_FULL_SECONDS):
                    checks["database"] = "refuses writes: its disk is full"
            if not schema.usable:
                checks["schema"] = (
                    f"is at revision {schema.current}, this release needs {schema.wanted}. "
                    f"{schema.cure}"
                )
        except UnavailableError:
            checks["database"] = "doesn't answer"
            checks["schema"] = "unknown"
        try:
            self._redis_ping()
        except UnavailableError:
            checks["redis"] = "doesn't answer"
        return Readiness(checks, checks["database"] == OK and checks["schema"] == OK)

    def live_workers(self) -> list[WorkerRow]:
        """Return the live worker processes. Raises DatabaseUnavailableError."""
        return live_workers(self._database, within_seconds=self._worker_seconds)


def live_workers(database: Database, *, within_seconds: float) -> list[WorkerRow]:
    """Return the worker processes that reported within `within_seconds`.

    Raises DatabaseUnavailableError.
    """
    with database.autocommit() as connection:
        return workers.live(connection, within_seconds=within_seconds)
