"""Looks for a text in executions, a bounded number of rows at a time."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import ColumnElement, Connection, Text, cast, func, literal, or_, select, true

from celeriac.db.executions.pages import page_of
from celeriac.db.executions.queries import beside
from celeriac.db.schema.catalog import tasks
from celeriac.db.schema.executions import execution_inputs, execution_results
from celeriac.db.schema.executions import executions as table
from celeriac.domain.executions.model import ExecutionFilter
from celeriac.kit.json_types import dumps

ROWS = 200
"""The most executions that one statement looks at."""

_MAX_STORED_BYTES = 2_000_000
"""Of variables and results that one statement reads, as they are stored: compressed."""

_MAX_BYTES = 4_000_000
"""Of variables and results in which one statement looks. Repetitions are stored in a hundredth."""

_LITERAL = "***="
"""Begins a regular expression without operators."""

_INPUTS, _RESULTS = beside(execution_inputs), beside(execution_results)
_LARGE = (_INPUTS.c.variables, _RESULTS.c.result)


@dataclass(frozen=True, slots=True)
class Looked:
    """What one statement has looked at, the newest first."""

    ids: Sequence[tuple[UUID, datetime, bool]]
    """Each execution, when it was made, and whether it has the text."""
    more: bool
    """Whether there are older executions that match the filter."""


def look(
    connection: Connection, wanted: ExecutionFilter, words: str, *, before: UUID | None
) -> Looked:
    """Look for `words` in the newest executions with smaller ids than `before`.

    At least one of them is looked at, if there is any; fewer than `ROWS` where they are large.
    """
    # one more than is looked at says whether there are more
    page = page_of(wanted, before=before, limit=ROWS + 1).subquery()
    key = page.c[0]
    size = sum(
        (func.coalesce(func.pg_column_size(column), 0) for column in _LARGE[1:]),
        func.coalesce(func.pg_column_size(_LARGE[0]), 0),
    )
    sized = (
        select(
            table.c.id,
            table.c.created_at,
            table.c.error_message,
            table.c.progress_note,
            table.c.labels,
            tasks.c.name,
            *_LARGE,
            func.sum(size).over(order_by=table.c.id.desc(), rows=(None, -1)).label("size_before"),
            func.row_number().over(order_by=table.c.id.desc()).label("place"),
            func.count().over().label("on_page"),
        )
        .select_from(page)
        .join(table, table.c.id == key)
        .join(tasks, tasks.c.id == table.c.task_id)
        .outerjoin(_INPUTS, true())
        .outerjoin(_RESULTS, true())
        .subquery()
    )
    length = sum(
        (func.coalesce(func.octet_length(cast(sized.c[each.name], Text)), 0) for each in _LARGE),
        literal(0),
    )
    near = (
        select(
            sized,
            func.sum(length).over(order_by=sized.c.id.desc(), rows=(None, -1)).label("before"),
        )
        .where(sized.c.place <= ROWS, func.coalesce(sized.c.size_before, 0) < _MAX_STORED_BYTES)
        .subquery()
    )
    plain, quoted = words, dumps(words)[1:-1]
    found = or_(
        _has(near.c.name, plain),
        _has(near.c.error_message, plain),
        _has(near.c.progress_note, plain),
        *(_has(cast(near.c[name], Text), quoted) for name in ("labels", "variables", "result")),
    )
    query = (
        select(near.c.id, near.c.created_at, near.c.on_page, func.coalesce(found, False))
        .where(func.coalesce(near.c.before, 0) < _MAX_BYTES)
        .order_by(near.c.id.desc())
    )
    rows = connection.execute(query).all()
    more = bool(rows) and rows[0].on_page > len(rows)
    return Looked([(row[0], row[1], row[3]) for row in rows], more)


def _has(column: ColumnElement[str], words: str) -> ColumnElement[bool]:
    """Whether a text has `words`, in upper or lower case; no character of it is a wildcard.

    A regular expression reads each character once. LIKE compares each with all of `words`, where
    these are repetitions: for seconds.
    """
    return column.regexp_match(_LITERAL + words, flags="i")
