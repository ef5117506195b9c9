"""Health: whether what the API needs answers, and which workers live."""

from collections.abc import Callable
from dataclasses import dataclass

from celeriac.db import engine, migrate, workers
from celeriac.db.engine import Database
from celeriac.db.workers import WorkerRow
from celeriac.domain.errors import UnavailableError

OK = "ok"

_DISK_FULL_SECONDS = 30.0
"""How long a write that met a full disk counts: a probe writes nothing, so it can't find out."""


@dataclass(frozen=True, slots=True)
class Readiness:
    """What was checked, each `ok` or what is wrong.

    `serving` is False where requests can't be answered; without Redis they can: executions are
    stored and sent later.
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
    """Looks after the servers. Safe to share between threads."""

    def __init__(
        self, database: Database, redis_ping: Callable[[], None], *, worker_seconds: float
    ) -> None:
        """`redis_ping` raises UnavailableError; a worker silent for `worker_seconds` is gone."""
        self._database = database
        self._redis_ping = redis_ping
        self._worker_seconds = worker_seconds

    def readiness(self) -> Readiness:
        """Check the database, its schema and Redis.

        Writes nothing: a read-only server says so itself, a full disk is known from the last
        statements of this process.
        """
        checks = {"database": OK, "schema": OK, "redis": OK}
        try:
            with self._database.statement() as connection:
                schema = migrate.schema(connection)
                if engine.read_only(connection):
                    checks["database"] = "is read-only"
                elif self._database.disk_full_within(_DISK_FULL_SECONDS):
                    checks["database"] = "refuses writes: its disk is full"
            if not schema.up_to_date:
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
        """Return the worker processes that are alive. Raises DatabaseUnavailableError."""
        with self._database.statement() as connection:
            return workers.live(connection, within_seconds=self._worker_seconds)
