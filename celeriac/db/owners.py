"""Owners of resources, and the lock on a user's catalog."""

from uuid import UUID

from sqlalchemy import Connection, select, text

from celeriac.db import schema

_OWNERS = {
    "agent": (schema.agents.c.id, schema.agents.c.owner_id),
    "api_key": (schema.api_keys.c.id, schema.api_keys.c.user_id),
    "approval": (schema.approvals.c.id, schema.approvals.c.owner_id),
    "batch": (schema.executions.c.batch_id, schema.executions.c.owner_id),
    "budget": (schema.budgets.c.id, schema.budgets.c.owner_id),
    "cassette": (schema.cassettes.c.id, schema.cassettes.c.owner_id),
    "execution": (schema.executions.c.id, schema.executions.c.owner_id),
    "session": (schema.sessions.c.id, schema.sessions.c.owner_id),
    "task": (schema.tasks.c.id, schema.tasks.c.owner_id),
    "user": (schema.users.c.id, schema.users.c.id),
}


def owner_of(connection: Connection, resource_type: str, resource_id: UUID) -> UUID | None:
    """Return the user who owns a resource, or None if it does not exist."""
    key, owner = _OWNERS[resource_type]
    return connection.execute(select(owner).where(key == resource_id).limit(1)).scalar()


def has_others(connection: Connection, user_id: UUID) -> bool:
    """Whether there are users besides `user_id`."""
    query = select(schema.users.c.id).where(schema.users.c.id != user_id).limit(1)
    return connection.execute(query).first() is not None


_HOLD = text("SELECT pg_advisory_xact_lock(4242423, hashtext(CAST(:user_id AS text)))")


def hold_catalog(connection: Connection, user_id: UUID) -> None:
    """Lock the user's catalog until the transaction ends; other callers wait."""
    connection.execute(_HOLD, {"user_id": user_id})
