"""What operators are told of the state of the database; never read on the hot path."""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, text

_MOST_NAMES = 20

_INVALID_INDEXES = text("""
SELECT c.relname FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
WHERE NOT i.indisvalid AND c.relnamespace = current_schema()::regnamespace
ORDER BY c.relname LIMIT :limit
""")
_OLDEST_TRANSACTION = text("""
SELECT pid, coalesce(nullif(application_name, ''), 'unnamed') AS application,
       extract(epoch FROM clock_timestamp() - xact_start)::float AS seconds
FROM pg_stat_activity
WHERE datname = current_database() AND xact_start IS NOT NULL AND pid <> pg_backend_pid()
  AND backend_type = 'client backend'
ORDER BY xact_start LIMIT 1
""")
_NOT_RESCUED = text("""
SELECT hostname FROM workers
WHERE stopped_at IS NULL AND lost_at IS NULL
  AND lease_until < now() - make_interval(secs => :seconds)
ORDER BY lease_until LIMIT :limit
""")


def invalid_indexes(connection: Connection) -> Sequence[str]:
    """Return the names of up to 20 indexes whose build was interrupted."""
    return connection.execute(_INVALID_INDEXES, {"limit": _MOST_NAMES}).scalars().all()


@dataclass(frozen=True, slots=True)
class OldTransaction:
    """An open transaction: its server process, its program, and its age."""

    pid: int
    application: str
    seconds: float


def oldest_transaction(connection: Connection) -> OldTransaction | None:
    """Return the transaction of another session of this database that was begun first."""
    row = connection.execute(_OLDEST_TRANSACTION).one_or_none()
    return OldTransaction(row.pid, row.application, row.seconds) if row else None


def not_rescued(connection: Connection, *, seconds: float) -> Sequence[str]:
    """Return up to 20 workers whose leases ended `seconds` ago, and which nobody declared lost."""
    parameters = {"seconds": seconds, "limit": _MOST_NAMES}
    return connection.execute(_NOT_RESCUED, parameters).scalars().all()
