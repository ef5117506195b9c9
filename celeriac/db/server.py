"""What the database server says of itself."""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, text


@dataclass(frozen=True, slots=True)
class DatabaseServer:
    """Version as PostgreSQL names it, its clock, and connections in use of those allowed."""

    version: str
    number: int
    """`server_version_num`: 180006 for 18.6."""
    now: datetime
    connections: int
    max_connections: int


_NOW = text("SELECT extract(epoch FROM clock_timestamp())::float8")


def seconds_now(connection: Connection) -> float:
    """Return the server's time, in seconds since 1970."""
    return float(connection.execute(_NOW).scalar_one())


def describe(connection: Connection) -> DatabaseServer:
    """Return what the server says of itself; `now` is its clock at that moment."""
    row = connection.execute(
        text(
            "SELECT current_setting('server_version'), "
            "current_setting('server_version_num')::int, clock_timestamp(), "
            "(SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'), "
            "current_setting('max_connections')::int"
        )
    ).one()
    return DatabaseServer(*row)


def read_only(connection: Connection) -> bool:
    """Whether the server refuses writing: a standby, or a primary that was demoted."""
    shown = connection.execute(text("SHOW transaction_read_only")).scalar_one()
    return bool(shown == "on")


def clock(connection: Connection) -> datetime:
    """Return the server's clock."""
    now: datetime = connection.execute(text("SELECT clock_timestamp()")).scalar_one()
    return now
