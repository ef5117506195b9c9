"""Filters, pages and rows; pages are bounded in bytes, not only in rows."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Generic, TypeVar, get_args
from uuid import UUID

from sqlalchemy import ColumnElement, Connection, Row, Select, Table, func, literal, select

from celeriac.kit.ids import uuid7_at
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


def matching(query: Select[Any], table: Table, wanted: object, *names: str) -> Select[Any]:
    """Return the query with an equality for each of these fields of `wanted` that is not None."""
    return given(query, *((table.c[name], getattr(wanted, name)) for name in names))


def written_out(value: object, column: ColumnElement[Any]) -> ColumnElement[Any]:
    """Return a value that is part of the statement, not bound.

    So the planner sees whether it is frequent, and which partial index fits.
    """
    plain = value.value if isinstance(value, StrEnum) else value
    return literal(plain, column.type, literal_execute=True)


_CLOCK_SLACK = timedelta(minutes=5)
"""How far the clock of an id may differ from the database's; `celeriac doctor` warns of less."""


def created(
    query: Select[Any], table: Table, *, after: datetime | None, before: datetime | None
) -> Select[Any]:
    """Return the query for rows created at or after a time, and before another one.

    Ids are ordered by time: an index of them bounds what is read.
    """
    if after is not None:
        query = query.where(table.c.created_at >= after)
    if before is not None:
        query = query.where(table.c.created_at < before)
    return made(query, table.c.id, after=after, before=before)


def made(
    query: Select[Any],
    key: ColumnElement[UUID],
    *,
    after: datetime | None,
    before: datetime | None,
) -> Select[Any]:
    """Return the query for ids that were made at about these times, as far as clocks agree."""
    if after is not None:
        query = query.where(key >= uuid7_at(after - _CLOCK_SLACK))
    if before is not None:
        query = query.where(key < uuid7_at(before + _CLOCK_SLACK))
    return query


def newest(
    query: Select[Any], key: ColumnElement[UUID], *, before: UUID | None, limit: int | None
) -> Select[Any]:
    """Return a page of a query: up to `limit` rows with ids below `before`, the newest first."""
    if before is not None:
        query = query.where(key < before)
    return query.order_by(key.desc()).limit(limit)


def read_one(connection: Connection, query: Select[Any], read: Callable[[Row[Any]], T]) -> T | None:
    """Return the value of the only row, or None if there is none."""
    row = connection.execute(query).one_or_none()
    return None if row is None else read(row)


def read_all(connection: Connection, query: Select[Any], read: Callable[[Row[Any]], T]) -> list[T]:
    """Return the values of all rows."""
    return [read(row) for row in connection.execute(query).all()]


def reader(kind: type[T], **converters: Callable[[Any], Any]) -> Callable[[Row[Any]], T]:
    """Return a function that makes the dataclass `kind` of a row that begins with its fields.

    Texts become the enums of the fields; `converters` read other values, also NULL.
    """
    names = [each.name for each in fields(kind)]  # type: ignore[arg-type]
    conversions = [(names.index(name), convert) for name, convert in converters.items()]
    for index, field in enumerate(fields(kind)):  # type: ignore[arg-type]
        for annotation in get_args(field.type) or (field.type,):
            if isinstance(annotation, type) and issubclass(annotation, StrEnum):
                members: dict[str | None, StrEnum | None] = {None: None}
                members.update((member.value, member) for member in annotation)
                conversions.append((index, members.__getitem__))

    def read(row: Row[Any]) -> T:
        values = list(row[: len(names)])
        for index, convert in conversions:
            values[index] = convert(values[index])
        return kind(**dict(zip(names, values, strict=True)))

    return read


def read_bounded(
    connection: Connection,
    query: Select[Any],
    read: Callable[[Row[Any]], T],
    *,
    bulky: Sequence[ColumnElement[Any]],
    key: str = "id",
    ascending: bool = False,
) -> Rows[T]:
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
    rows: list[T] = []
    total = wanted_rows = 0
    for row in found:
        wanted_rows = row.page_wanted
        rows.append(read(row))
        total += sum(len(dumps(getattr(row, str(column.key)))) for column in bulky)
        if total >= MAX_PAGE_BYTES:
            break
    found.close()
    return Rows(rows, more=len(rows) < wanted_rows)
