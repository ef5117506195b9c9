"""How many rows of a table statements read, by the plans that they get."""

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from psycopg import sql
from sqlalchemy import Connection, event

from celeriac.db.engine import Database


def rows_read(
    database: Database, work: Callable[[Connection], object], table: str = "executions"
) -> list[tuple[str, int]]:
    """Execute the statements of `work`; return each plan with the rows of `table` that it read.

    Once with the plan for these values, and once with the one that connections keep.
    """
    seen: list[tuple[str, Any]] = []

    def executed(_c: object, _k: object, statement: str, parameters: object, *_: object) -> None:
        if not statement.startswith("SET plan_cache_mode"):
            seen.append((statement, parameters))

    with database.autocommit() as connection:
        event.listen(database.engine, "before_cursor_execute", executed)
        try:
            work(connection)
        finally:
            event.remove(database.engine, "before_cursor_execute", executed)
        driver: Any = connection.connection.driver_connection
        return [plan for each in seen for plan in _plans(driver, table, *each)]


def _plans(
    driver: Any, table: str, statement: str, parameters: Mapping[str, Any]
) -> Iterator[tuple[str, int]]:
    names = {name: f"${number}" for number, name in enumerate(parameters, 1)}
    values = sql.SQL(", ").join(map(sql.Literal, parameters.values()))
    call = sql.SQL("({})").format(values) if names else sql.SQL("")
    explain = sql.SQL("EXPLAIN (ANALYZE, TIMING OFF, FORMAT JSON) EXECUTE kept") + call
    driver.execute(f"PREPARE kept AS {statement % names}", prepare=False)
    for mode in ("force_custom_plan", "force_generic_plan"):
        driver.execute(f"SET plan_cache_mode = {mode}", prepare=False)
        plan = driver.execute(explain, prepare=False).fetchone()[0][0]["Plan"]
        yield f"{mode}: {json.dumps(plan, indent=1)}", _of_table(plan, table)
    driver.execute("DEALLOCATE kept", prepare=False)
    driver.execute("RESET plan_cache_mode", prepare=False)


def _of_table(plan: Mapping[str, Any], table: str) -> int:
    inner = sum(_of_table(each, table) for each in plan.get("Plans", ()))
    named = table in plan.get("Relation Name", "") + plan.get("Index Name", "")
    if not named:
        return inner
    removed = (plan.get(f"Rows Removed by {why}", 0) for why in ("Filter", "Index Recheck"))
    return inner + round(float((plan["Actual Rows"] + sum(removed)) * plan["Actual Loops"]))
