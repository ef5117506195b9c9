"""What doctor asks a server: its version, its connections, and the settings of a session."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, text

from celeriac.db.engine import SESSION, STATEMENT_SECONDS


@dataclass(frozen=True, slots=True)
class DatabaseServer:
    """The server's version, current time, and connections in use and allowed."""

    version: str
    number: int
    """`server_version_num`: 180006 for 18.6."""
    now: datetime
    connections: int
    max_connections: int


def describe(connection: Connection) -> DatabaseServer:
    """Return the server's version, clock and connections."""
    row = connection.execute(
        text(
            "SELECT current_setting('server_version'), "
            "current_setting('server_version_num')::int, clock_timestamp(), "
            "(SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'), "
            "current_setting('max_connections')::int"
        )
    ).one()
    return DatabaseServer(*row)


@dataclass(frozen=True, slots=True)
class SessionSettings:
    """The settings that hold in a session; limits in seconds, 0 for none."""

    role: str
    database: str
    timezone: str
    seqscan: bool
    plan_cache_mode: str
    lock_seconds: float
    statement_seconds: float

    def role_faults(self, lock_seconds: float) -> dict[str, str]:
        """Return the settings that are wrong, each with its right value.

        Statements must wait at most `lock_seconds` for a lock.
        """
        mode = SESSION["plan_cache_mode"]
        right = {
            "timezone": (self.timezone in _UTC, SESSION["timezone"]),
            "enable_seqscan": (not self.seqscan, SESSION["enable_seqscan"]),
            "plan_cache_mode": (self.plan_cache_mode == mode, mode),
            "lock_timeout": (0 < self.lock_seconds <= lock_seconds, f"{lock_seconds * 1000:.0f}ms"),
            "statement_timeout": (
                0 < self.statement_seconds <= STATEMENT_SECONDS,
                f"{STATEMENT_SECONDS:.0f}s",
            ),
        }
        return {name: value for name, (is_right, value) in right.items() if not is_right}

    def cure(self, faults: Mapping[str, str]) -> str:
        """Return the statements that set `faults` right for the role, in this database."""
        where = f"ALTER ROLE {_quoted(self.role)} IN DATABASE {_quoted(self.database)}"
        return " ".join(f"{where} SET {name} = '{value}';" for name, value in faults.items())


_UTC = ("UTC", "Etc/UTC")


def session_settings(connection: Connection) -> SessionSettings:
    """Return the settings of the session, which behind a pooler are those of the role."""
    row = connection.execute(_SETTINGS).one()
    return SessionSettings(*row)


_SETTINGS = text("""
SELECT current_user, current_database(), current_setting('TimeZone'),
       current_setting('enable_seqscan')::boolean, current_setting('plan_cache_mode'),
       (SELECT setting::float / 1000 FROM pg_settings WHERE name = 'lock_timeout'),
       (SELECT setting::float / 1000 FROM pg_settings WHERE name = 'statement_timeout')
""")


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
