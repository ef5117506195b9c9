"""The audit trail."""

from datetime import datetime
from typing import Any
from uuid import UUID

from celeriac.wire.base import Wire


class AuditEntry(Wire):
    """Who did what to which resource."""

    id: UUID
    at: datetime
    actor_id: UUID | None
    actor: str
    action: str
    resource_type: str
    resource_id: str
    request_id: str | None
    details: dict[str, Any]
