"""`/api/v1/secrets`: secrets of the workspace; their values are never returned."""

from typing import Annotated

from fastapi import APIRouter, Path
from pydantic import ConfigDict, Field, SecretStr
from starlette.responses import Response

from celeriac import wire
from celeriac.api.core.auth import Admin, Administrator, Caller
from celeriac.api.core.pages import Paging
from celeriac.api.core.parameters import Reference, Services
from celeriac.api.core.requests import JsonRoute
from celeriac.api.core.responses import problem_responses
from celeriac.domain.base import Name, Strict, Word
from celeriac.domain.secrets.minted import GithubApp
from celeriac.domain.secrets.model import Secret
from celeriac.services.secrets.manage import NewSecret, SecretChange

router = APIRouter(prefix="/secrets", tags=["secrets"], route_class=JsonRoute)
encryption_router = APIRouter(tags=["secrets"], route_class=JsonRoute)
"""Apart from `/secrets/{secret}`, whose names may be any."""

SecretPath = Annotated[Reference, Path(description="The secret's id or name.")]
Value = Annotated[
    SecretStr | None,
    Field(description="The value, 8 to 64,000 characters. It is stored encrypted and never shown."),
]
WorkerSource = Annotated[
    Word | None,
    Field(
        description="Instead of a value: the name of a source in the workers' "
        "`CELERIAC_SECRET_SOURCES`. For administrators."
    ),
]
Description = Annotated[str | None, Field(max_length=2_000)]


class SecretToCreate(Strict):
    """A secret to create, with a `value` or a `worker_source`."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"name": "github", "value": "github_pat_11AAAAAAA0example"}]
        }
    )

    name: Name = Field(description="Unique in the workspace; it can't be changed later.")
    value: Value = None
    worker_source: WorkerSource = None
    github_app: GithubApp | None = Field(
        default=None,
        description="With the app's private key (PEM) as `value`: attempts get a token of the app "
        "for one repository, which ends after an hour, instead of the value.",
    )
    description: Description = ""


class ChangedSecret(Strict):
    """What to change; fields that are left out stay."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"value": "github_pat_11AAAAAAA0another"}]}
    )

    value: Value = None
    worker_source: WorkerSource = None
    description: Description = None


def _shown(found: Secret) -> wire.Secret:
    names = wire.Secret.model_fields.keys() - {"links"}
    return wire.Secret.linked({name: getattr(found, name) for name in names})


def _value(given: SecretStr | None) -> str | None:
    return None if given is None else given.get_secret_value()


@router.post("", status_code=201, summary="Create a secret", responses=problem_responses(409))
def create_secret(body: SecretToCreate, actor: Admin, services: Services) -> wire.Secret:
    """Create a secret that agents of the workspace can be given."""
    new = NewSecret(
        name=body.name,
        value=_value(body.value),
        worker_source=body.worker_source,
        github_app=body.github_app,
        description=body.description or "",
    )
    return _shown(services.secrets.create(actor, new))


@router.get("", response_model=wire.Page[wire.Secret], summary="List secrets")
def list_secrets(actor: Caller, services: Services, paging: Paging) -> Response:
    """Return the secrets of the workspace without their values, the newest first."""
    return paging.answer(_shown, services.secrets.find, actor)


@encryption_router.post("/secret-encryption", summary="Encrypt all secrets with the first key")
def reencrypt_secrets(actor: Administrator, services: Services) -> wire.Reencrypted:
    """Encrypt the values of all workspaces with the first of `CELERIAC_ENCRYPTION_KEYS`."""
    return wire.Reencrypted(reencrypted=services.secrets.reencrypt(actor))


@router.get("/{secret}", summary="Get a secret")
def get_secret(secret: SecretPath, actor: Caller, services: Services) -> wire.Secret:
    """Return a secret without its value."""
    return _shown(services.secrets.get(actor, secret))


@router.patch("/{secret}", summary="Change a secret")
def change_secret(
    secret: SecretPath, body: ChangedSecret, actor: Admin, services: Services
) -> wire.Secret:
    """Give a secret another value or description; attempts that start later get the new value."""
    wanted = SecretChange(
        value=_value(body.value), worker_source=body.worker_source, description=body.description
    )
    return _shown(services.secrets.change(actor, secret, wanted))


@router.delete("/{secret}", status_code=204, summary="Delete a secret")
def delete_secret(secret: SecretPath, actor: Admin, services: Services) -> None:
    """Delete a secret; attempts of agents that name it fail from now on."""
    services.secrets.delete(actor, secret)
