"""What migrations do outside of a transaction, so that nobody waits for them."""

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Connection, text

_VALID = text("SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass(:name)")

_LOCK_TIMEOUT = "2s"

_PARTITIONS = text("""
SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
WHERE i.inhparent = to_regclass(:name) AND NOT i.inhdetachpending ORDER BY c.relname
""")


def create_index(connection: Connection, name: str, on: str, *, unique: bool = False) -> None:
    """Create the index `name` `on` a table, as `executions (task_id, id)`, beside all other work.

    Of a partitioned table, each partition is indexed by itself, and the indexes then become one.
    May be repeated: an index that is there stays, and one that an interrupted build has left
    invalid is built again. `connection` is in autocommit mode. Raises DatabaseBusyError where
    others keep a partitioned table locked.
    """
    kind = "UNIQUE INDEX" if unique else "INDEX"
    table, _, columns = on.partition(" ")
    if not _is_partitioned(connection, table):
        _build(connection, name, f"{kind} CONCURRENTLY {name} ON {on}")
        return
    with _impatiently(connection):
        connection.exec_driver_sql(f"CREATE {kind} IF NOT EXISTS {name} ON ONLY {on}")
    # partitions that are made from here on have the index
    for partition in connection.execute(_PARTITIONS, {"name": table}).scalars().all():
        if _indexed(connection, name, partition):
            continue
        part = f"{name}{partition.removeprefix(table)}"
        _build(connection, part, f"{kind} CONCURRENTLY {part} ON {partition} {columns}")
        with _impatiently(connection):
            connection.exec_driver_sql(f"ALTER INDEX {name} ATTACH PARTITION {part}")


def drop_index(connection: Connection, name: str) -> None:
    """Drop the index `name` beside all other work; nothing happens if there is none.

    That of a partitioned table is dropped at once, which needs its lock for a moment. Raises
    DatabaseBusyError where others keep it.
    """
    if _is_partitioned(connection, name):
        with _impatiently(connection):
            connection.exec_driver_sql(f"DROP INDEX IF EXISTS {name}")
        return
    connection.exec_driver_sql(f"DROP INDEX CONCURRENTLY IF EXISTS {name}")


def _build(connection: Connection, name: str, definition: str) -> None:
    valid = connection.execute(_VALID, {"name": name}).scalar_one_or_none()
    if valid:
        return
    if valid is not None:
        connection.exec_driver_sql(f"DROP INDEX CONCURRENTLY {name}")
    connection.exec_driver_sql(f"CREATE {definition}")


_IS_PARTITIONED = text("SELECT relkind IN ('p', 'I') FROM pg_class WHERE oid = to_regclass(:name)")


def _is_partitioned(connection: Connection, name: str) -> bool:
    return bool(connection.execute(_IS_PARTITIONED, {"name": name}).scalar_one_or_none())


_INDEXED = text("""
SELECT EXISTS (
    SELECT FROM pg_inherits i JOIN pg_index x ON x.indexrelid = i.inhrelid
    WHERE i.inhparent = to_regclass(:name) AND x.indrelid = to_regclass(:partition))
""")


def _indexed(connection: Connection, name: str, partition: str) -> bool:
    """Whether the index of a partition is a part of the index `name`."""
    values = {"name": name, "partition": partition}
    return bool(connection.execute(_INDEXED, values).scalar_one())


@contextmanager
def _impatiently(connection: Connection) -> Iterator[None]:
    """Wait only briefly for locks: all statements on the table wait behind this one."""
    connection.exec_driver_sql(f"SET lock_timeout = '{_LOCK_TIMEOUT}'")
    try:
        yield
    finally:
        connection.exec_driver_sql("RESET lock_timeout")
