"""Reads the database from outside, without being part of what is measured."""

import time
from typing import Any

from sqlalchemy import text

from celeriac.db.engine import Database

_LIVE = text(
    "SELECT EXISTS (SELECT FROM executions"
    " WHERE status IN ('pending', 'queued', 'running', 'waiting') AND completed_at IS NULL)"
)
_TRANSACTIONS = text(
    "SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = current_database()"
)
_OTHERS = text(
    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
    " AND pid <> pg_backend_pid()"
)
_SYNCS = text("SELECT sum(fsyncs) FROM pg_stat_io WHERE object = 'wal'")
_POLL_SECONDS = 0.02


class Watch:
    """A connection of its own; `statements` counts its statements, to be subtracted."""

    def __init__(self, url: str) -> None:
        """Connect to the database at `url`."""
        self._database = Database(url, connections=1, application="benchmark-watch")
        self.statements = 0

    def rows(self, query: str, **parameters: Any) -> list[tuple[Any, ...]]:
        """Return the rows of a query."""
        self.statements += 1
        with self._database.autocommit() as connection:
            return [tuple(row) for row in connection.execute(text(query), parameters)]

    def wait_until_idle(self, *, seconds: float = 120.0) -> None:
        """Wait until every execution has ended; raises TimeoutError after `seconds`."""
        deadline = time.monotonic() + seconds
        while self._scalar(_LIVE):
            if time.monotonic() > deadline:
                left = self.rows("SELECT status, count(*) FROM executions GROUP BY status")
                raise TimeoutError(f"after {seconds:g} s not all have ended: {dict(left)}")
            time.sleep(_POLL_SECONDS)

    def transactions(self) -> int:
        """Return the number of transactions of the database; every connection must be closed.

        PostgreSQL's sessions report what they did seconds later, or when they end.
        """
        while self._scalar(_OTHERS):
            time.sleep(_POLL_SECONDS)
        return int(self._scalar(_TRANSACTIONS))

    def wal_syncs(self) -> int:
        """Return how often the server has waited for the disk to store its log."""
        return int(self._scalar(_SYNCS) or 0)

    def close(self) -> None:
        """Close the connection."""
        self._database.close()

    def _scalar(self, query: Any) -> Any:
        self.statements += 1
        with self._database.autocommit() as connection:
            return connection.execute(query).scalar_one()
