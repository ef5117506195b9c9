"""Users, API keys and the audit trail over HTTP."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Path, Query
from pydantic import ConfigDict, Field
from starlette.responses import Response

from celeriac import wire
from celeriac.api.core.auth import Administrator, Caller
from celeriac.api.core.pages import Paging
from celeriac.api.core.parameters import Reference, Services, Shared, Timestamp
from celeriac.api.core.requests import JsonRoute
from celeriac.api.core.responses import problem_responses
from celeriac.domain.accounts import Role
from celeriac.domain.audit import AuditFilter
from celeriac.domain.base import Label, Name, Strict
from celeriac.services.keys import NewKey

router = APIRouter(tags=["accounts"], route_class=JsonRoute)
audit_router = APIRouter(prefix="/audit-logs", tags=["audit"], route_class=JsonRoute)

UserPath = Annotated[UUID, Path(description="The user's id.")]
KeyPath = Annotated[UUID, Path(description="The key's id, not the key.")]

_MAX_POSITION = 2**63 - 1
_Word = Annotated[str | None, Query(max_length=100, pattern=r"^[A-Za-z0-9_.-]+$")]


class NewUser(Strict):
    """A user to create."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"name": "ada", "role": "operator"}]})

    name: Name
    role: Annotated[Role, Field(strict=False)] = Role.OPERATOR


class UserPatch(Strict):
    """Changes to a user; fields that are left out stay as they are."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"disabled": True}]})

    role: Annotated[Role, Field(strict=False)] | None = None
    disabled: bool | None = Field(
        default=None,
        description="A disabled user's keys are refused, and signed links made by or for them.",
    )
    cancel_executions: bool = Field(
        default=False, description="Also cancel their executions that have not ended."
    )


class NewApiKey(Strict):
    """An API key to create."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"name": "ci", "role": "operator"}]})

    name: Label = Field(min_length=1, max_length=100)
    role: Annotated[Role, Field(strict=False)] | None = Field(
        default=None, description="At most the user's role in the workspace, which is the default."
    )
    user_id: Annotated[UUID, Field(strict=False)] | None = Field(
        default=None, description="The user of the key; only administrators may name others."
    )
    workspace: Reference | None = Field(
        default=None,
        description="Id or name of the workspace of the key; yours, or the named user's own, if "
        "left out. Only a key of a personal workspace makes keys for others.",
    )
    expires_at: Timestamp | None = Field(default=None, description="Default: never.")


@router.post("/users", status_code=201, summary="Create a user", responses=problem_responses(409))
def create_user(body: NewUser, actor: Administrator, services: Services) -> wire.User:
    """Create a user with a personal workspace. To do anything they need an API key."""
    return wire.User.model_validate(
        services.accounts.create_user(actor, name=body.name, role=body.role)
    )


@router.get("/users", response_model=wire.Page[wire.User], summary="List users")
def list_users(actor: Administrator, services: Services, paging: Paging) -> Response:
    """Return all users, the newest first."""
    return paging.answer(wire.User.model_validate, services.accounts.users, actor)


@router.get("/users/{user_id}", summary="Get a user")
def get_user(user_id: UserPath, actor: Caller, services: Services) -> wire.User:
    """Return a user: yourself, or as an administrator anybody."""
    return wire.User.model_validate(services.accounts.user(actor, user_id))


@router.patch("/users/{user_id}", summary="Change a user", responses=problem_responses(409))
def change_user(
    user_id: UserPath, body: UserPatch, actor: Administrator, services: Services, shared: Shared
) -> wire.User:
    """Change a user's own role, or disable or enable them. Their keys follow within seconds.

    The executions of a disabled user still run, unless `cancel_executions` is true.
    """
    user = services.accounts.change_user(actor, user_id, role=body.role, disabled=body.disabled)
    services.authenticate.forget()
    if body.cancel_executions:
        shared.cancel.all_of(actor, user_id)
    return wire.User.model_validate(user)


@router.get("/me", summary="Get yourself")
def get_me(actor: Caller, services: Services) -> wire.User:
    """Return the user of the key."""
    return wire.User.model_validate(services.accounts.user(actor, actor.user_id))


@router.post("/api-keys", status_code=201, summary="Create an API key",
             responses=problem_responses(404))  # fmt: skip
def create_api_key(body: NewApiKey, actor: Caller, services: Services) -> wire.NewApiKey:
    """Create a key for yourself, or as an administrator for anybody.

    Its `token` is shown only now. It acts in one workspace.
    """
    made = services.accounts.create_key(
        actor,
        name=body.name,
        role=body.role,
        user_id=body.user_id,
        workspace=body.workspace,
        expires_at=body.expires_at,
    )
    return new_key(made)


def new_key(made: NewKey) -> wire.NewApiKey:
    """Return a new key with its token, as it is shown once."""
    shown = wire.ApiKey.model_validate(made.key)
    return wire.NewApiKey(**shown.model_dump(), token=made.token)


@router.get("/api-keys", response_model=wire.Page[wire.ApiKey], summary="List API keys")
def list_api_keys(actor: Caller, services: Services, paging: Paging) -> Response:
    """Return your keys without their secrets, the newest first. An administrator sees everybody's.

    With a key of another than your personal workspace these are the keys of that workspace.
    """
    return paging.answer(wire.ApiKey.model_validate, services.accounts.keys, actor)


@router.get("/api-keys/{key_id}", summary="Get an API key")
def get_api_key(key_id: KeyPath, actor: Caller, services: Services) -> wire.ApiKey:
    """Return a key without its secret."""
    return wire.ApiKey.model_validate(services.accounts.key(actor, key_id))


@router.delete("/api-keys/{key_id}", status_code=204, summary="Revoke an API key")
def revoke_api_key(key_id: KeyPath, actor: Caller, services: Services) -> None:
    """Revoke a key for ever. Other API processes may accept it for five seconds more."""
    services.accounts.revoke_key(actor, key_id)
    services.authenticate.forget()


@audit_router.get("", response_model=wire.Page[wire.AuditEntry], summary="List the audit trail")
def list_audit_logs(
    actor: Caller,
    services: Services,
    paging: Paging,
    action: Annotated[_Word, Query(description="As in `execution.cancel`.")] = None,
    resource_type: Annotated[_Word, Query(description="As in `execution`.")] = None,
    resource_id: Annotated[_Word, Query(description="The resource's id.")] = None,
) -> Response:
    """Return what you did in the workspace, the newest first.

    An admin sees what everybody did in it, an administrator what everybody did anywhere.
    """
    wanted = AuditFilter(action=action, resource_type=resource_type, resource_id=resource_id)
    return paging.answer(wire.AuditEntry.model_validate, services.queries.audit, actor, wanted)


@audit_router.get("/verification", summary="Check the audit trail")
def verify_audit_logs(
    actor: Administrator,  # noqa: ARG001 - the role is required
    services: Services,
    after: Annotated[
        int, Query(ge=0, le=_MAX_POSITION, description="`last_position` of the page before.")
    ] = 0,
    limit: Annotated[int, Query(ge=1, le=100, description="Seals on a page.")] = 20,
) -> wire.AuditVerification:
    """Check the next seals of the audit trail against the entries under them.

    A seal covers up to 1,000 entries. The trail is unchanged if no page has a fault, up to the one
    that is `complete`. Store the last `head` elsewhere: if a later check does not pass it, the end
    of the trail was cut off.
    """
    found = services.audit_trail.verify(after=after, seals=limit)
    return wire.AuditVerification.model_validate(found)
