"""Filters, pages and rows; pages are bounded in bytes, not only in rows."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any, Generic, TypeVar
from uuid import UUID

from sqlalchemy import ColumnElement, Connection, Row, Select, Table, func, select

from celeriac.kit.json_types import dumps

T = TypeVar("T")

MAX_PAGE_BYTES = 4_000_000
"""A page ends with the row at which its bulky values reach this size as JSON."""

_MAX_STORED_BYTES = 256_000
"""The same limit for what is read: as stored, which is compressed."""


@dataclass(frozen=True, slots=True)
class Rows(Generic[T]):
    """Some rows; `more` says whether rows within the limit were left for the next page."""

    items: Sequence[T]
    more: bool = False


def columns(kind: type[Any], table: Table, **others: ColumnElement[Any]) -> Select[Any]:
    """Return a query for the fields of the dataclass `kind`.

    They are columns of `table` with the same names, except those in `others`.
    """
    return select(
        *(
            (others[each.name] if each.name in others else table.c[each.name]).label(each.name)
            for each in fields(kind)
        )
    )


def given(query: Select[Any], *pairs: tuple[ColumnElement[Any], object]) -> Select[Any]:
    """Return the query with an equality for every column whose value is not None."""
    return query.where(*(column == value for column, value in pairs if value is not None))


def newest(
    query: Select[Any], key: ColumnElement[UUID], *, before: UUID | None, limit: int
) -> Select[Any]:
    """Return a page of a query: up to `limit` rows with ids below `before`, the newest first."""
    if before is not None:
        query = query.where(key < before)
    return query.order_by(key.desc()).limit(limit)


def read_one(connection: Connection, query: Select[Any], read: Callable[[Row[Any]], T]) -> T | None:
    """Return the value of the only row, or None if there is none."""
    row = connection.execute(query).one_or_none()
    return None if row is None else read(row)


def value_of(kind: type[T], row: Row[Any], /, **converters: Callable[[Any], Any]) -> T:
    """Return the dataclass `kind` with the values of a row's columns, some of them converted."""
    values = {each.name: getattr(row, each.name) for each in fields(kind)}  # type: ignore[arg-type]
    return kind(**values | {name: read(values[name]) for name, read in converters.items()})


def read_bounded(
    connection: Connection,
    query: Select[Any],
    *,
    bulky: Sequence[ColumnElement[Any]],
    key: str = "id",
    ascending: bool = False,
) -> Rows[Row[Any]]:
    """Read a query that has a limit: one row at least, and no more when they get large.

    `bulky` are the columns that may be large, JSON or text; the rows are in the order of `key`.
    The server calculates the sizes without reading the values, and sends only what fits.
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
