"""Requests about users and API keys."""

from typing import Annotated
from uuid import UUID

from pydantic import ConfigDict, Field

from celeriac.api.v1.schemas.executions import Timestamp
from celeriac.domain.accounts import Role
from celeriac.domain.agents import Label, Name, Strict


class NewUser(Strict):
    """A user to make."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"name": "ada", "role": "operator"}]})

    name: Name
    role: Annotated[Role, Field(strict=False)] = Role.OPERATOR


class UserPatch(Strict):
    """What to change on a user; what is left out stays as it is."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"disabled": True}]})

    role: Annotated[Role, Field(strict=False)] | None = None
    disabled: bool | None = Field(
        default=None,
        description="A disabled user's keys are refused, and signed links to their questions.",
    )
    cancel_executions: bool = Field(
        default=False, description="Also cancel their executions that have not ended."
    )


class NewApiKey(Strict):
    """An API key to make."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"name": "ci", "role": "operator"}]})

    name: Label = Field(min_length=1, max_length=100)
    role: Annotated[Role, Field(strict=False)] | None = Field(
        default=None, description="At most the user's own role, which is the default."
    )
    user_id: Annotated[UUID, Field(strict=False)] | None = Field(
        default=None, description="Whose key it is; only admins may name others."
    )
    expires_at: Timestamp | None = Field(default=None, description="Default: never.")
