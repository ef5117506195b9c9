"""The audit trail: who did what to which resource, written with the change that it tells of."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import Connection, insert, select

from celeriac.db.models import audit_logs as table
from celeriac.domain.accounts import Actor
from celeriac.kit.ids import uuid7
from celeriac.kit.jsontypes import JsonObject


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """One line of the audit trail."""

    id: UUID
    at: datetime
    actor_id: UUID | None
    actor: str
    action: str
    resource_type: str
    resource_id: str
    request_id: str | None
    details: JsonObject


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditFilter:
    """Which entries to list; None means: all."""

    actor_id: UUID | None = None
    action: str | None = None
    resource_type: str | None = None
    resource_id: str | None = None


def record(
    connection: Connection,
    actor: Actor,
    action: str,
    resource_type: str,
    resource_ids: Sequence[UUID],
    *,
    details: JsonObject | None = None,
) -> None:
    """Write one entry for each resource, in the caller's transaction.

    `action` is `resource.verb`. No secret belongs into `details`.
    """
    rows = [
        {
            "id": uuid7(),
            "actor_id": actor.user_id,
            "actor": actor.name,
            "action": action,
            "resource_type": resource_type,
            "resource_id": str(resource_id),
            "request_id": actor.request_id,
            "details": dict(details or {}),
        }
        for resource_id in resource_ids
    ]
    if rows:
        connection.execute(insert(table), rows)


def failed(
    connection: Connection,
    execution_id: UUID,
    *,
    actor: str,
    request_id: str | None,
    details: JsonObject,
) -> None:
    """Write that an execution has failed for good (REQUIREMENTS A17), as a program saw it."""
    by_program(
        connection,
        actor,
        "execution.fail",
        "execution",
        execution_id,
        request_id=request_id,
        details=details,
    )


def by_program(
    connection: Connection,
    actor: str,
    action: str,
    resource_type: str,
    resource_id: UUID,
    *,
    request_id: str | None,
    details: JsonObject,
) -> None:
    """Write what was done by no user's key; `actor` says by what. See `record`."""
    values = {
        "id": uuid7(),
        "actor": actor,
        "action": action,
        "resource_type": resource_type,
        "resource_id": str(resource_id),
        "request_id": request_id,
        "details": dict(details),
    }
    connection.execute(insert(table).values(values))


def find(
    connection: Connection, wanted: AuditFilter, *, before: UUID | None, limit: int
) -> list[AuditEntry]:
    """Return up to `limit` entries older than `before`, the newest first."""
    query = select(
        table.c.id,
        table.c.at,
        table.c.actor_id,
        table.c.actor,
        table.c.action,
        table.c.resource_type,
        table.c.resource_id,
        table.c.request_id,
        table.c.details,
    )
    for name in ("actor_id", "action", "resource_type", "resource_id"):
        value = getattr(wanted, name)
        if value is not None:
            query = query.where(table.c[name] == value)
    if before is not None:
        query = query.where(table.c.id < before)
    rows = connection.execute(query.order_by(table.c.id.desc()).limit(limit))
    return [AuditEntry(*row) for row in rows]
