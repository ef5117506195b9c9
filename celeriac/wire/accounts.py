"""Users, API keys and the audit trail as HTTP shapes."""

from datetime import datetime
from typing import Any
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


class AuditEntry(Wire):
    """Who did what to which resource."""

    model_config = example(examples.AUDIT_ENTRY)

    id: UUID
    at: datetime
    actor_id: UUID | None
    actor: str
    action: str
    resource_type: str
    resource_id: str
    request_id: str | None
    details: dict[str, Any]


class AuditFault(Wire):
    """A seal of the audit trail that does not hold."""

    model_config = example(examples.AUDIT_FAULT)

    first_position: int
    last_position: int
    message: str


class AuditVerification(Wire):
    """What a check of a part of the audit trail found."""

    model_config = example(examples.AUDIT_VERIFICATION)

    ok: bool
    entries: int
    seals: int
    start: str = Field(description="The seal before the first one that was checked.")
    last_position: int = Field(description="Where the check ended; `after` of the next page.")
    head: str = Field(description="The last seal that was checked, in hexadecimal.")
    complete: bool = Field(description="Whether there are no more seals.")
    faults: list[AuditFault]
