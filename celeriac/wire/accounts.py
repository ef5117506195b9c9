"""Users and API keys."""

from datetime import datetime
from uuid import UUID

from pydantic import Field

from celeriac.domain.accounts import Role
from celeriac.wire import examples
from celeriac.wire.base import Wire, example


class User(Wire):
    """A person or program that owns resources."""

    model_config = example(examples.USER)

    id: UUID
    name: str
    role: Role
    created_at: datetime
    disabled_at: datetime | None


class ApiKey(Wire):
    """An API key without its secret."""

    model_config = example(examples.API_KEY)

    id: UUID
    user_id: UUID
    user_name: str
    name: str
    prefix: str = Field(description="The public part of the key: `cel_<prefix>_…`.")
    role: Role
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None = Field(description="To the minute.")


class NewApiKey(ApiKey):
    """A key that was just made."""

    model_config = example(examples.NEW_API_KEY)

    token: str = Field(description="The key itself. It is shown this once and stored nowhere.")
