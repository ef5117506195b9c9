"""What the generic plans of statements read."""

import re
from collections.abc import Callable
from typing import Any

from sqlalchemy import Connection, event, text

from celeriac.db import partitions
from celeriac.db.engine import Database

Work = Callable[[Connection], object]


def empty_partitions(connection: Connection) -> set[str]:
    """Return the partitions of executions in which there is nothing.

    One that gets its first rows is analysed by autovacuum, and plans are made again.
    """
    names = [each.name("executions") for each in partitions.periods(connection)]
    found = text(" UNION ALL ".join(f"(SELECT '{name}' FROM {name} LIMIT 1)" for name in names))
    return set(names) - set(connection.execute(found).scalars())


def indexes(database: Database, work: Work) -> set[str]:
    """Return what the generic plans of the statements of `work` read the executions by."""
    explained = plans(database, work)
    with database.autocommit() as connection:
        empty = empty_partitions(connection)
    whole = [
        scan[0]
        for each in explained
        for scan in re.finditer(_WHOLE_TABLE, each)
        if not any(f" on {name} " in scan[0] for name in empty)
    ]
    assert not whole, f"these read the whole table:\n{chr(10).join(explained)}"
    with database.autocommit() as connection:
        wholes = {row[0]: row[1] for row in connection.execute(PARTS)}
    found = {name for each in explained for name in re.findall(_READS, each)}
    found = {wholes.get(name, name) for name in found}
    return {"pk_executions" if name in _AS_GOOD else name for name in found}


PARTS = text("""
SELECT part.relname, whole.relname FROM pg_inherits i
JOIN pg_class part ON part.oid = i.inhrelid JOIN pg_class whole ON whole.oid = i.inhparent
WHERE part.relkind = 'i'
""")
"""The indexes of partitions, and those that they are parts of."""


def plans(database: Database, work: Work) -> list[str]:
    """Return the generic plans of the statements of `work` on executions."""
    statements: list[str] = []

    def executed(_c: object, _k: object, statement: str, *_: object) -> None:
        statements.append(statement)

    event.listen(database.engine, "before_cursor_execute", executed)
    try:
        with database.autocommit() as connection:
            work(connection)
    finally:
        event.remove(database.engine, "before_cursor_execute", executed)
    found = [plan(database, each) for each in statements if "executions" in each]
    assert found, "no statement on executions was seen"
    return found


_READS = (
    r"(?:Scan using |Scan Backward using |Bitmap Index Scan on |Seq Scan on )(\w*executions\w*)"
)

_WHOLE_TABLE = (
    r"Scan (?:Backward )?using execution\w+_pkey on execution.*\n(?!.*Index Cond)"
    r"|Seq Scan on (?:execution\w*|sessions|session_messages|approvals|webhook_endpoints"
    r"|steps|children|live_children).*"
    r"|Index (?:Only )?Scan (?:using|on) \w+_(?:sessions|approvals|webhook_endpoints)\w* .*\n"
    r"(?!.*Index Cond)"
)
"""Scans that cost as much as there is history."""

_AS_GOOD = {"ix_executions_task", "ix_executions_workspace"}
"""PostgreSQL 18 may find an id by (task_id, id) as well, skipping over tasks while they are few."""


def plan(database: Database, statement: str) -> str:
    """Return the generic plan of a statement as it is sent to the driver."""
    names: list[str] = []

    def numbered(match: re.Match[str]) -> str:
        if match[1] not in names:
            names.append(match[1])
        return f"${names.index(match[1]) + 1}"

    with database.autocommit() as connection:
        explain = "EXPLAIN (GENERIC_PLAN) " + re.sub(r"%\((\w+)\)s", numbered, statement)
        driver: Any = connection.connection.driver_connection
        # psycopg would prepare it, as often as it is asked, and miss the parameters
        return "\n".join(row[0] for row in driver.execute(explain, prepare=False))
