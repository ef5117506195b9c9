"""Users over HTTP."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Path

from celeriac import wire
from celeriac.api.core.auth import Admin, Caller, Cursor, Limit, Services, Shared
from celeriac.api.core.requests import JsonRoute
from celeriac.api.core.responses import READING, WRITING, problem_responses
from celeriac.api.v1.schemas.accounts import NewUser, UserPatch

router = APIRouter(prefix="/users", tags=["accounts"], route_class=JsonRoute)
own_router = APIRouter(tags=["accounts"], route_class=JsonRoute)

UserPath = Annotated[UUID, Path(description="The user's id.")]


@router.post(
    "",
    status_code=201,
    operation_id="create_user",
    summary="Make a user",
    responses=WRITING | problem_responses(409),
)
def create(body: NewUser, actor: Admin, services: Services) -> wire.User:
    """Make a user; then make them an API key."""
    return wire.User.model_validate(
        services.accounts.create_user(actor, name=body.name, role=body.role)
    )


@router.get(
    "", operation_id="list_users", summary="List users", responses=READING | problem_responses(403)
)
def find(
    actor: Admin, services: Services, cursor: Cursor = None, limit: Limit = 50
) -> wire.Page[wire.User]:
    """Return all users, the newest first."""
    page = services.accounts.users(actor, cursor=cursor, limit=limit)
    items = [wire.User.model_validate(user) for user in page.items]
    return wire.Page(items=items, next_cursor=page.next_cursor)


@router.get(
    "/{user_id}",
    operation_id="get_user",
    summary="Get a user",
    responses=READING | problem_responses(404),
)
def get(user_id: UserPath, actor: Caller, services: Services) -> wire.User:
    """Return a user: yourself, or as an admin anybody."""
    return wire.User.model_validate(services.accounts.user(actor, user_id))


@router.patch(
    "/{user_id}",
    operation_id="change_user",
    summary="Change a user",
    responses=WRITING | problem_responses(404, 409),
)
def change(
    user_id: UserPath, body: UserPatch, actor: Admin, services: Services, shared: Shared
) -> wire.User:
    """Change a user's role, or disable or enable them; their keys follow within seconds.

    What a disabled user has submitted is still run, unless `cancel_executions` is true.
    """
    user = services.accounts.change_user(actor, user_id, role=body.role, disabled=body.disabled)
    services.authenticate.forget()
    if body.cancel_executions:
        shared.cancel.all_of(actor, user_id)
    return wire.User.model_validate(user)


@own_router.get("/me", operation_id="get_me", summary="Get yourself", responses=READING)
def me(actor: Caller, services: Services) -> wire.User:
    """Return the user whose key this is."""
    return wire.User.model_validate(services.accounts.user(actor, actor.user_id))
