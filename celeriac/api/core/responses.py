"""Responses, and the documentation of problems."""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from starlette.background import BackgroundTask
from starlette.responses import Response

from celeriac import wire
from celeriac.domain.paging import Page

T = TypeVar("T")

_PROBLEMS = {
    400: "The body is not JSON (`malformed_json`).",
    401: "The API key is missing, unknown, revoked or expired (`unauthenticated`).",
    403: "The key's role is not enough (`forbidden`).",
    404: "There is no such resource, or it is someone else's (`not_found`).",
    408: "The body took too long to arrive (`request_timeout`).",
    409: "The state of the resource forbids it (`conflict`, `name_taken`, `task_inactive`).",
    413: "The body is over the size limit (`too_large`).",
    421: "The server doesn't answer for the host in the request (`host_refused`).",
    422: "The request is invalid; `field` says where (`invalid_input` and others).",
    429: "Too many unknown keys came from this address (`too_many_requests`).",
    503: "A required server is unavailable; try again later (`database_unavailable`, "
    "`database_busy`, `database_timeout`, `database_partitions`, `broker_unavailable`, "
    "`object_store_unavailable`).",
}


def problem_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the documentation of the problems that a route may answer with."""
    return {
        status: {"model": wire.Problem, "description": _PROBLEMS[status]} for status in statuses
    }


def json_response(
    model: wire.Wire,
    *,
    status: int = 200,
    headers: Mapping[str, str] | None = None,
    background: BackgroundTask | None = None,
    exclude: Mapping[str, Any] | None = None,
) -> Response:
    """Return `model` as JSON, without the fields in `exclude` (as in pydantic).

    Takes long for a large model: call it in the thread of a route that is not a coroutine. FastAPI
    itself would serialize a returned model on the event loop.
    """
    return Response(
        model.model_dump_json(by_alias=True, exclude=None if exclude is None else dict(exclude)),
        status_code=status,
        headers=dict(headers or {}),
        media_type="application/json",
        background=background,
    )


def page_response(page: Page[T], view: Callable[[T], wire.Wire]) -> Response:
    """Return a page of a list, each item as `view` shows it."""
    items = [view(item) for item in page.items]
    return json_response(wire.Page(items=items, next_cursor=page.next_cursor))
