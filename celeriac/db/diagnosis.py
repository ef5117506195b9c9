"""What operators are told of the state of the database; never read on the hot path."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

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
_DEAD_ROWS = text("""
SELECT relname, n_dead_tup, n_live_tup,
       extract(epoch FROM now() - greatest(last_autovacuum, last_vacuum))::float AS seconds
FROM pg_stat_user_tables
WHERE schemaname = current_schema() AND n_dead_tup >= :dead AND n_dead_tup >= n_live_tup
ORDER BY n_dead_tup DESC LIMIT :limit
""")
_SERVER = text("""
SELECT age(datfrozenxid)::bigint AS transactions, current_setting('autovacuum')::boolean AS vacuums
FROM pg_database WHERE datname = current_database()
""")
_EXPIRING = text("""
SELECT k.name, u.name, k.expires_at FROM api_keys k JOIN users u ON u.id = k.user_id
WHERE k.revoked_at IS NULL AND k.expires_at > now()
  AND k.expires_at < now() + make_interval(days => :days)
  AND k.last_used_at > now() - make_interval(days => :used_days)
  -- a key that was made for a few days is meant to end
  AND k.expires_at > k.created_at + make_interval(days => 2 * :days)
ORDER BY k.expires_at LIMIT :limit
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


@dataclass(frozen=True, slots=True)
class DeadRows:
    """A table with at least as many dead rows as live ones, and when it was vacuumed last."""

    table: str
    dead: int
    live: int
    vacuumed_seconds: float | None
    """None if it never was."""


def dead_rows(connection: Connection, *, most: int) -> Sequence[DeadRows]:
    """Return up to 20 tables of which more than half, and more than `most` rows, are dead."""
    rows = connection.execute(_DEAD_ROWS, {"dead": most, "limit": _MOST_NAMES})
    return [DeadRows(*row) for row in rows]


def transaction_age(connection: Connection) -> tuple[int, bool]:
    """Return the age of the database's oldest row in transactions, and whether it autovacuums."""
    row = connection.execute(_SERVER).one()
    return int(row.transactions), bool(row.vacuums)


def expiring_keys(
    connection: Connection, *, days: int, used_days: int
) -> Sequence[tuple[str, str, datetime]]:
    """Return up to 20 API keys in use that end within `days`: their name, user and end.

    Keys that were made for less than twice as long are left out, and those that nobody has used
    for `used_days`.
    """
    parameters = {"days": days, "used_days": used_days, "limit": _MOST_NAMES}
    return [(row[0], row[1], row[2]) for row in connection.execute(_EXPIRING, parameters)]
