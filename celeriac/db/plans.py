"""Statements whose plan is kept, so that it is not made again for each execution.

A session plans each statement for its values: a plan for all values may crash PostgreSQL 18
(docs/adr/0052). That takes milliseconds where there are many partitions. What is sent all the time
keeps its plan nevertheless. Such a plan must prune no partitions while it runs, only when it
begins: `tests/integration/services/test_kept_plans.py` looks at each of them.
"""

import re
from functools import lru_cache
from typing import Any

from sqlalchemy import Connection, Engine, TextClause, event, text
from sqlalchemy.engine.interfaces import DBAPICursor, ExecutionContext

from celeriac.db import partitions

MADE_FOR_VALUES = "force_custom_plan"
"""The mode of a session, unless a statement keeps its plan."""

_PARTITIONED = re.compile(rf"\b({'|'.join(table.name for table in partitions.TABLES)})\b")

_OPTION = "keeps_plan"
_KEEPING = "keeps_plans"


def kept_text(statement: str) -> TextClause:
    """Return a statement whose plan is made once for each connection.

    It must not compare ids of partitioned tables by `=` with values of another part of itself. The
    server prunes no partitions for `= ANY (ARRAY(SELECT …))` and `IS NOT DISTINCT FROM`.
    """
    return text(statement).execution_options(**{_OPTION: True})


def keep_plans(engine: Engine) -> None:
    """Let the sessions of `engine` keep the plans of `kept_text`.

    The mode is changed where a statement needs the other one than that before it.
    """
    event.listen(engine, "before_cursor_execute", _choose)
    event.listen(engine, "rollback", _forget)
    event.listen(engine, "rollback_savepoint", lambda connection, *_: _forget(connection))


def _choose(
    connection: Connection,
    _cursor: DBAPICursor,
    statement: str,
    _parameters: Any,
    context: ExecutionContext | None,
    _many: bool,  # noqa: FBT001 - the signature of the event
) -> None:
    if context is None or not _prunes(statement):
        return
    keeps = bool(context.execution_options.get(_OPTION))
    info = connection.info
    if info.get(_KEEPING, False) is not keeps:
        mode = "force_generic_plan" if keeps else MADE_FOR_VALUES
        info.pop(_KEEPING, None)
        connection.exec_driver_sql(f"SET plan_cache_mode = {mode}")
        info[_KEEPING] = keeps


@lru_cache(maxsize=4096)
def _prunes(statement: str) -> bool:
    """Whether a statement names a partitioned table; for others any mode is right."""
    return _PARTITIONED.search(statement) is not None


def _forget(connection: Connection) -> None:
    """Note that after a rollback the mode is that of before the transaction."""
    if connection.invalidated:
        return  # the next session has its own
    driver = connection.connection.dbapi_connection
    if driver is not None and not driver.autocommit:
        connection.info[_KEEPING] = None


def keeps_plan(statement: TextClause) -> bool:
    """Whether the plan of a statement is kept."""
    return bool(statement.get_execution_options().get(_OPTION))
