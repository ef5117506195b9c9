"""Owners of resources, and the lock on a user's catalog."""

from uuid import UUID

from sqlalchemy import Connection, select, text

from celeriac.db.schema import (
    agents,
    api_keys,
    approvals,
    budgets,
    cassettes,
    executions,
    sessions,
    tasks,
    users,
)

_OWNERS = {
    "agent": (agents.c.id, agents.c.owner_id),
    "api_key": (api_keys.c.id, api_keys.c.user_id),
    "approval": (approvals.c.id, approvals.c.owner_id),
    "batch": (executions.c.batch_id, executions.c.owner_id),
    "budget": (budgets.c.id, budgets.c.owner_id),
    "cassette": (cassettes.c.id, cassettes.c.owner_id),
    "execution": (executions.c.id, executions.c.owner_id),
    "session": (sessions.c.id, sessions.c.owner_id),
    "task": (tasks.c.id, tasks.c.owner_id),
    "user": (users.c.id, users.c.id),
}


def owner_of(connection: Connection, resource_type: str, resource_id: UUID) -> UUID | None:
    """Return the user who owns a resource, or None if it does not exist."""
    key, owner = _OWNERS[resource_type]
    return connection.execute(select(owner).where(key == resource_id).limit(1)).scalar()


def has_others(connection: Connection, user_id: UUID) -> bool:
    """Whether there are users besides `user_id`."""
    query = select(users.c.id).where(users.c.id != user_id).limit(1)
    return connection.execute(query).first() is not None


_HOLD = text("SELECT pg_advisory_xact_lock(4242423, hashtext(CAST(:user_id AS text)))")


def hold_catalog(connection: Connection, user_id: UUID) -> None:
    """Lock the user's catalog until the transaction ends; other callers wait."""
    connection.execute(_HOLD, {"user_id": user_id})
