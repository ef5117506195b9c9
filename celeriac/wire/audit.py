"""The audit trail."""

from datetime import datetime
from typing import Any
from uuid import UUID

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
