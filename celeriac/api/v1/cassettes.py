"""Cassettes over HTTP."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Header, Path, Query, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from celeriac import wire
from celeriac.api.core import views
from celeriac.api.core.auth import Caller, Cursor, Limit, Operator, Services
from celeriac.api.core.requests import JsonRoute
from celeriac.api.core.responses import READING, json_response, problem_responses
from celeriac.domain.agents import Label
from celeriac.domain.errors import InvalidInputError

MEDIA = "application/jsonl"

router = APIRouter(prefix="/cassettes", tags=["cassettes"], route_class=JsonRoute)

CassettePath = Annotated[
    UUID, Path(description="The cassette's id, or that of the execution that recorded it.")
]
_TEXT = {"content": {MEDIA: {"schema": {"type": "string"}}}}


@router.get("", operation_id="list_cassettes", summary="List cassettes", responses=READING)
def find(
    actor: Caller, services: Services, cursor: Cursor = None, limit: Limit = 50
) -> wire.Page[wire.Cassette]:
    """Return your cassettes, the newest first; an admin sees everybody's."""
    page = services.cassettes.page(actor, cursor=cursor, limit=limit)
    return wire.Page(items=list(map(views.cassette, page.items)), next_cursor=page.next_cursor)


@router.post(
    "",
    status_code=201,
    response_model=wire.Cassette,
    operation_id="upload_cassette",
    summary="Upload a cassette",
    responses=READING | problem_responses(403, 413),
    openapi_extra={"requestBody": {"required": True, **_TEXT}},
)
async def upload(
    request: Request,
    actor: Operator,
    services: Services,
    name: Annotated[
        Label, Query(min_length=1, max_length=200, description="What to list it under.")
    ] = "uploaded",
    content_encoding: Annotated[
        str | None, Header(description="gzip, where the body is packed so.")
    ] = None,
) -> Response:
    """Store a cassette (docs/cassettes.md describes the format), to be named by `cassette_id`.

    The same text, uploaded again, is found again.
    """
    if content_encoding not in {None, "identity", "gzip"}:
        raise InvalidInputError(
            "A cassette is sent as it is, or packed with gzip.", field="Content-Encoding"
        )
    content = await request.body()

    def store() -> wire.Cassette:
        cassette_id = services.cassettes.upload(
            actor, name, content, compressed=content_encoding == "gzip"
        )
        return views.cassette(services.cassettes.get(actor, cassette_id))

    return json_response(await run_in_threadpool(store), status=201)


@router.get(
    "/{cassette_id}",
    operation_id="get_cassette",
    summary="Get a cassette",
    responses=READING | problem_responses(404),
)
def get(cassette_id: CassettePath, actor: Caller, services: Services) -> wire.Cassette:
    """Return what is known of a cassette."""
    return views.cassette(services.cassettes.get(actor, cassette_id))


@router.get(
    "/{cassette_id}/content",
    operation_id="download_cassette",
    summary="Download a cassette",
    response_class=Response,
    responses=READING | problem_responses(404) | {200: {"description": "Its text.", **_TEXT}},
)
def download(cassette_id: CassettePath, actor: Caller, services: Services) -> Response:
    """Return a cassette's text: JSON lines, a header and then one request with its answer each."""
    headers = {
        "Content-Disposition": f'attachment; filename="cassette-{cassette_id}.jsonl"',
        "X-Content-Type-Options": "nosniff",
    }
    content = services.cassettes.content(actor, cassette_id)
    return Response(content, media_type=MEDIA, headers=headers)


@router.delete(
    "/{cassette_id}",
    status_code=204,
    response_class=Response,
    operation_id="delete_cassette",
    summary="Delete a cassette",
    responses=READING | problem_responses(403, 404),
)
def delete(cassette_id: CassettePath, actor: Operator, services: Services) -> Response:
    """Delete a cassette; an execution that was to be answered from it fails then."""
    services.cassettes.delete(actor, cassette_id)
    return Response(status_code=204)
