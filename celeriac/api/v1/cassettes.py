"""Cassettes over HTTP."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Header, Path, Query, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from celeriac import wire
from celeriac.api.core import views
from celeriac.api.core.auth import Caller, Operator
from celeriac.api.core.pages import Paging
from celeriac.api.core.parameters import Services
from celeriac.api.core.requests import JsonRoute
from celeriac.api.core.responses import json_response, problem_responses
from celeriac.domain.base import Label
from celeriac.domain.errors import InvalidInputError

MEDIA = "application/jsonl"

router = APIRouter(prefix="/cassettes", tags=["cassettes"], route_class=JsonRoute)

CassettePath = Annotated[
    UUID, Path(description="The cassette's id, or that of the execution that recorded it.")
]
_TEXT = {"content": {MEDIA: {"schema": {"type": "string"}}}}


@router.get("", response_model=wire.Page[wire.Cassette], summary="List cassettes")
def list_cassettes(actor: Caller, services: Services, paging: Paging) -> Response:
    """Return the cassettes of the workspace, the newest first."""
    return paging.answer(views.cassette, services.cassettes.page, actor)


@router.post(
    "",
    status_code=201,
    response_model=wire.Cassette,
    summary="Upload a cassette",
    responses=problem_responses(413),
    openapi_extra={"requestBody": {"required": True, **_TEXT}},
)
async def upload_cassette(
    request: Request,
    actor: Operator,
    services: Services,
    name: Annotated[
        Label, Query(min_length=1, max_length=200, description="The name in lists.")
    ] = "uploaded",
    content_encoding: Annotated[
        str | None, Header(description="gzip, if the body is compressed with it.")
    ] = None,
) -> Response:
    """Store a cassette (docs/cassettes.md describes the format), for use as `cassette_id`.

    The same text, uploaded again, returns the same cassette.
    """
    if content_encoding not in {None, "identity", "gzip"}:
        raise InvalidInputError(
            "A cassette is sent as it is, or compressed with gzip.", field="Content-Encoding"
        )
    content = await request.body()

    def store() -> wire.Cassette:
        cassette_id = services.cassettes.upload(
            actor, name, content, compressed=content_encoding == "gzip"
        )
        return views.cassette(services.cassettes.get(actor, cassette_id))

    return json_response(await run_in_threadpool(store), status=201)


@router.get("/{cassette_id}", summary="Get a cassette")
def get_cassette(cassette_id: CassettePath, actor: Caller, services: Services) -> wire.Cassette:
    """Return a cassette without its content."""
    return views.cassette(services.cassettes.get(actor, cassette_id))


@router.get(
    "/{cassette_id}/content",
    summary="Download a cassette",
    response_class=Response,
    responses={200: {"description": "Its text.", **_TEXT}},
)
def download_cassette(cassette_id: CassettePath, actor: Caller, services: Services) -> Response:
    """Return a cassette's text: JSON lines, a header and then one request with its answer each."""
    headers = {
        "Content-Disposition": f'attachment; filename="cassette-{cassette_id}.jsonl"',
        "X-Content-Type-Options": "nosniff",
    }
    content = services.cassettes.content(actor, cassette_id)
    return Response(content, media_type=MEDIA, headers=headers)


@router.delete("/{cassette_id}", status_code=204, summary="Delete a cassette")
def delete_cassette(cassette_id: CassettePath, actor: Operator, services: Services) -> None:
    """Delete a cassette. An execution that has not yet replayed it fails."""
    services.cassettes.delete(actor, cassette_id)
