"""Exports of executions: the items of the list as CSV or as NDJSON, in one download."""

import csv
import io
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from enum import StrEnum
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from pydantic import Field
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response, StreamingResponse

from celeriac import wire
from celeriac.api.core import views
from celeriac.api.core.auth import Caller, still_allowed
from celeriac.api.core.parameters import Services
from celeriac.api.core.requests import JsonRoute
from celeriac.api.core.responses import problem_responses
from celeriac.api.v1.executions.schemas import ListFilter
from celeriac.api.v1.executions.selected import selected
from celeriac.domain.errors import UnauthenticatedError
from celeriac.domain.executions.model import BULKY, Execution
from celeriac.kit.json_types import dumps

MAX_EXPORT = 100_000
"""The most executions in one download."""

NEXT_CURSOR = "Celeriac-Next-Cursor"
"""The header with the `cursor` that continues an export."""

_AT_ONCE = 500
_UNEXPORTED = "_links"
_JSON_COLUMNS = frozenset({*BULKY, "labels", "limit_keys", "options", "flags", "progress"})
"""Columns whose cells are JSON texts."""
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")
"""What spreadsheets may read as the beginning of a formula (OWASP, CSV injection)."""


class ExportFormat(StrEnum):
    """How an export is written."""

    CSV = "csv"
    NDJSON = "ndjson"


_MEDIA = {
    ExportFormat.CSV: "text/csv; charset=utf-8",
    ExportFormat.NDJSON: "application/x-ndjson",
}


class ExportMany(ListFilter):
    """Which executions to export, and how."""

    format: Annotated[ExportFormat, Field(strict=False)] = Field(
        default=ExportFormat.CSV, description="csv or ndjson."
    )
    limit: Annotated[int, Field(strict=False)] | None = Field(
        default=None,
        ge=1,
        le=MAX_EXPORT,
        description="The most executions in this download; if more match, the header "
        f"`{NEXT_CURSOR}` has the `cursor` of the next one. Without it all are exported, and the "
        f"request is refused if more than {MAX_EXPORT:,} match.",
    )
    header: Annotated[bool, Field(strict=False)] = Field(
        default=True, description="With csv: whether the first row has the names of the columns."
    )


_EXAMPLE = dumps(wire.ExecutionSummary.example()) + "\n"

router = APIRouter(prefix="/task-executions", tags=["executions"], route_class=JsonRoute)


@router.get(
    "/export",
    summary="Export executions",
    response_class=Response,
    responses=problem_responses(404)
    | {
        200: {
            "description": "The executions; incomplete if the response breaks off.",
            "headers": {
                NEXT_CURSOR: {
                    "description": "The `cursor` that continues; absent if no more match.",
                    "schema": {"type": "string"},
                }
            },
            "content": {
                "text/csv": {"schema": {"type": "string"}},
                "application/x-ndjson": {"schema": {"type": "string", "examples": [_EXAMPLE]}},
            },
        }
    },
)
async def export_executions(
    request: Request, actor: Caller, services: Services, query: Annotated[ExportMany, Query()]
) -> Response:
    """Return the executions of the workspace that match, the newest first, as one download.

    NDJSON has one item of the list on each line. CSV has the same fields as columns, except links;
    objects and lists are JSON. In CSV, a text that a spreadsheet could read as a formula begins
    with `'`. A response that breaks off, without its last chunk, is incomplete.
    """
    queries = services.queries
    wanted = await run_in_threadpool(selected, query, actor, services)
    limit = query.limit or MAX_EXPORT
    end = await run_in_threadpool(
        queries.export_end,
        actor,
        wanted,
        cursor=query.cursor,
        limit=limit,
        whole=query.limit is None,
    )

    async def read(cursor: str | None) -> tuple[bytes, str | None]:
        return await run_in_threadpool(page, cursor)

    def page(cursor: str | None) -> tuple[bytes, str | None]:
        found = queries.executions(
            actor, wanted, cursor=cursor, limit=_AT_ONCE, include=query.include
        )
        items = [each for each in found.items if end.last is None or each.id >= end.last]
        more = len(items) == len(found.items)
        return write(items), found.next_cursor if more else None

    def write(items: Iterable[Execution]) -> bytes:
        return _WRITERS[query.format](map(views.summary, items), query.include).encode()

    async def allowed() -> bool:
        return await still_allowed(request)

    first = await read(query.cursor)
    head = b""
    if query.format is ExportFormat.CSV and query.header:
        head = _rows([columns(query.include)]).encode()
    headers = {
        "Content-Disposition": f'attachment; filename="executions.{query.format}"',
        "X-Accel-Buffering": "no",
        "X-Content-Type-Options": "nosniff",
    }
    if end.next_cursor is not None:
        headers[NEXT_CURSOR] = end.next_cursor
    return StreamingResponse(
        _chunks(head, first, read, allowed), media_type=_MEDIA[query.format], headers=headers
    )


async def _chunks(
    head: bytes,
    first: tuple[bytes, str | None],
    read: Callable[[str | None], Awaitable[tuple[bytes, str | None]]],
    allowed: Callable[[], Awaitable[bool]],
) -> AsyncIterator[bytes]:
    """Yield the pages; an error breaks the response off, so that it does not look complete."""
    content, cursor = first
    yield head + content
    while cursor is not None:
        content, cursor = await read(cursor)
        if not await allowed():  # checked after reading what is sent next
            raise UnauthenticatedError("The API key of this export was revoked meanwhile.")
        yield content


def columns(include: Sequence[str]) -> list[str]:
    """Return the names of the columns of a CSV: fields of the list, as far as included."""
    left_out = {*BULKY} - {*include}
    names = ((field.alias or name) for name, field in wire.ExecutionSummary.model_fields.items())
    return [name for name in names if name != _UNEXPORTED and name not in left_out]


def csv_text(items: Iterable[wire.ExecutionSummary], include: Sequence[str]) -> str:
    """Return the rows of items, without the names of the columns."""
    names = columns(include)
    return _rows(_row(item.model_dump(mode="json", by_alias=True), names) for item in items)


def ndjson_text(items: Iterable[wire.ExecutionSummary], include: Sequence[str]) -> str:
    """Return the lines of items, each as the list has it."""
    left_out = {*BULKY} - {*include}
    return "".join(f"{item.model_dump_json(by_alias=True, exclude=left_out)}\n" for item in items)


_WRITERS = {ExportFormat.CSV: csv_text, ExportFormat.NDJSON: ndjson_text}


def _row(values: dict[str, Any], names: Iterable[str]) -> list[object]:
    return [_cell(name, values[name]) for name in names]


def _cell(name: str, value: object) -> object:
    if value is None:
        return ""
    if isinstance(value, bool) or name in _JSON_COLUMNS:
        return dumps(value)
    if isinstance(value, str) and value.startswith(_FORMULA):
        return f"'{value}"
    return value


def _rows(rows: Iterable[Sequence[object]]) -> str:
    written = io.StringIO(newline="")
    csv.writer(written).writerows(rows)
    return written.getvalue()
