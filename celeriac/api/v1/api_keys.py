"""API keys over HTTP."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Path
from starlette.responses import Response

from celeriac import wire
from celeriac.api.core.auth import Caller, Cursor, Limit, Services
from celeriac.api.core.requests import JsonRoute
from celeriac.api.core.responses import READING, WRITING, problem_responses
from celeriac.api.v1.schemas.accounts import NewApiKey

router = APIRouter(prefix="/api-keys", tags=["accounts"], route_class=JsonRoute)

KeyPath = Annotated[UUID, Path(description="The key's id, not the key.")]


@router.post(
    "",
    status_code=201,
    operation_id="create_api_key",
    summary="Make an API key",
    responses=WRITING | problem_responses(404),
)
def create(body: NewApiKey, actor: Caller, services: Services) -> wire.NewApiKey:
    """Make a key for yourself, or as an admin for anybody. Its `token` is shown this once."""
    made = services.accounts.create_key(
        actor, name=body.name, role=body.role, user_id=body.user_id, expires_at=body.expires_at
    )
    shown = wire.ApiKey.model_validate(made.key)
    return wire.NewApiKey(**shown.model_dump(), token=made.token)


@router.get("", operation_id="list_api_keys", summary="List API keys", responses=READING)
def find(
    actor: Caller, services: Services, cursor: Cursor = None, limit: Limit = 50
) -> wire.Page[wire.ApiKey]:
    """Return your keys without their secrets, the newest first; an admin sees everybody's."""
    page = services.accounts.keys(actor, cursor=cursor, limit=limit)
    items = [wire.ApiKey.model_validate(key) for key in page.items]
    return wire.Page(items=items, next_cursor=page.next_cursor)


@router.get(
    "/{key_id}",
    operation_id="get_api_key",
    summary="Get an API key",
    responses=READING | problem_responses(404),
)
def get(key_id: KeyPath, actor: Caller, services: Services) -> wire.ApiKey:
    """Return a key without its secret."""
    return wire.ApiKey.model_validate(services.accounts.key(actor, key_id))


@router.delete(
    "/{key_id}",
    status_code=204,
    response_class=Response,
    operation_id="revoke_api_key",
    summary="Revoke an API key",
    responses=READING | problem_responses(404),
)
def revoke(key_id: KeyPath, actor: Caller, services: Services) -> Response:
    """Make a key useless for ever; other API processes may believe it for five seconds more."""
    services.accounts.revoke_key(actor, key_id)
    services.authenticate.forget()
    return Response(status_code=204)
