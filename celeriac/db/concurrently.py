"""What migrations do outside of a transaction, so that nobody waits for them."""

from sqlalchemy import Connection, text

_VALID = text("SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass(:name)")


def create_index(connection: Connection, name: str, on: str, *, unique: bool = False) -> None:
    """Create the index `name` `on` a table, as `executions (task_id, id)`, beside all other work.

    May be repeated: an index that is there stays, and one that an interrupted build has left
    invalid is built again. `connection` is in autocommit mode.
    """
    valid = connection.execute(_VALID, {"name": name}).scalar_one_or_none()
    if valid:
        return
    if valid is not None:
        drop_index(connection, name)
    kind = "UNIQUE INDEX" if unique else "INDEX"
    connection.exec_driver_sql(f"CREATE {kind} CONCURRENTLY {name} ON {on}")


def drop_index(connection: Connection, name: str) -> None:
    """Drop the index `name` beside all other work; nothing happens if there is none."""
    connection.exec_driver_sql(f"DROP INDEX CONCURRENTLY IF EXISTS {name}")
