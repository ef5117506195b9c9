"""Pages that are bounded in bytes, not only in rows."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from sqlalchemy import ColumnElement, Connection, Row, Select, func, select

from celeriac.kit.json_types import dumps

T = TypeVar("T")

MAX_PAGE_BYTES = 4_000_000
"""A page ends with the row that brings its bulky values to so many bytes of JSON."""

_MAX_STORED_BYTES = 256_000
"""The same for what is read at all: as stored, which is compressed."""


@dataclass(frozen=True, slots=True)
class Rows(Generic[T]):
    """Some rows; `more` says that others of those asked for were left for the next page."""

    items: Sequence[T]
    more: bool = False


def read_bounded(
    connection: Connection,
    query: Select[Any],
    *,
    bulky: Sequence[ColumnElement[Any]],
    key: str = "id",
    ascending: bool = False,
) -> Rows[Row[Any]]:
    """Read a query that has a limit, one row at least, and stop where the rows get large.

    `bulky` are the columns that may be large, JSON or text; the rows are in the order of `key`.
    Sizes are known without reading the values, and only what fits is read.
    """
    size = sum((func.coalesce(func.pg_column_size(column), 0) for column in bulky[1:]),
               func.coalesce(func.pg_column_size(bulky[0]), 0))  # fmt: skip
    wanted = query.add_columns(size.label("page_size")).subquery()
    order = wanted.c[key].asc() if ascending else wanted.c[key].desc()
    before = func.sum(wanted.c.page_size).over(order_by=order, rows=(None, -1))
    sized = select(
        wanted,
        func.coalesce(before, 0).label("page_before"),
        func.count().over().label("page_wanted"),
    ).subquery()
    order = sized.c[key].asc() if ascending else sized.c[key].desc()
    found = connection.execute(
        select(sized).where(sized.c.page_before < _MAX_STORED_BYTES).order_by(order)
    )
    rows: list[Row[Any]] = []
    total = wanted_rows = 0
    for row in found:
        wanted_rows = row.page_wanted
        rows.append(row)
        total += sum(len(dumps(getattr(row, str(column.key)))) for column in bulky)
        if total >= MAX_PAGE_BYTES:
            break
    found.close()
    return Rows(rows, more=len(rows) < wanted_rows)
