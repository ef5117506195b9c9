"""The audit trail."""

from datetime import datetime
from typing import Any
from uuid import UUID

from pydantic import Field

from celeriac.wire import examples
from celeriac.wire.base import Wire, example


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
