"""Webhook endpoints of workspaces."""

from collections.abc import Sequence
from uuid import UUID

from sqlalchemy import Connection, func, insert, select, text, update

from celeriac.db.paging import columns, newest, read_all, read_one, reader
from celeriac.db.schema.webhooks import webhook_endpoints as table
from celeriac.domain.webhooks import FAILING_DAYS, Endpoint, PausedReason
from celeriac.kit.ids import uuid7

_SELECT = columns(Endpoint, table)
_endpoint = reader(Endpoint)


def add(
    connection: Connection,
    *,
    workspace_id: UUID,
    owner_id: UUID,
    url: str,
    events: Sequence[str],
    description: str,
) -> UUID:
    """Insert an endpoint; return its id."""
    endpoint_id = uuid7()
    connection.execute(
        insert(table).values(
            id=endpoint_id,
            workspace_id=workspace_id,
            owner_id=owner_id,
            url=url,
            events=list(events),
            description=description,
        )
    )
    return endpoint_id


def get(
    connection: Connection, endpoint_id: UUID, *, workspace: UUID, lock: bool = False
) -> Endpoint | None:
    """Return an endpoint of `workspace`, or None; `lock` locks it for a change."""
    query = _SELECT.where(table.c.id == endpoint_id, table.c.workspace_id == workspace)
    return read_one(connection, query.with_for_update() if lock else query, _endpoint)


def find(
    connection: Connection, *, workspace: UUID, before: UUID | None, limit: int
) -> list[Endpoint]:
    """Return up to `limit` endpoints of a workspace older than `before`, the newest first."""
    query = _SELECT.where(table.c.workspace_id == workspace)
    return read_all(connection, newest(query, table.c.id, before=before, limit=limit), _endpoint)


def count(connection: Connection, workspace_id: UUID) -> int:
    """Return how many endpoints a workspace has."""
    query = select(func.count()).where(table.c.workspace_id == workspace_id)
    return int(connection.execute(query).scalar_one())


def change(
    connection: Connection,
    endpoint_id: UUID,
    *,
    url: str,
    events: Sequence[str],
    description: str,
) -> None:
    """Change an endpoint."""
    values: dict[str, object] = {
        "url": url,
        "events": list(events),
        "description": description,
        "updated_at": func.now(),
    }
    connection.execute(update(table).where(table.c.id == endpoint_id).values(**values))


def set_active(connection: Connection, endpoint_id: UUID, *, active: bool) -> None:
    """Pause an endpoint, or let it take deliveries again as one that has not failed yet."""
    values: dict[str, object] = {
        "active": active,
        "paused_reason": None if active else PausedReason.REQUESTED.value,
        "failing_since": None,
        "updated_at": func.now(),
    }
    connection.execute(update(table).where(table.c.id == endpoint_id).values(**values))


_ROTATE = text("""
UPDATE webhook_endpoints
SET secret_number = secret_number + 1, updated_at = now(),
    previous_until = now() + make_interval(secs => :seconds)
WHERE id = :id
""")


def rotate(connection: Connection, endpoint_id: UUID, *, hours: float) -> None:
    """Give an endpoint its next secret; the one until now signs, too, for `hours`."""
    connection.execute(_ROTATE, {"id": endpoint_id, "seconds": hours * 3600.0})


def delete(connection: Connection, endpoint_id: UUID) -> None:
    """Delete an endpoint; its deliveries stay until retention removes them."""
    connection.execute(table.delete().where(table.c.id == endpoint_id))


_WORKS = text("""
UPDATE webhook_endpoints SET failing_since = NULL
WHERE id = :id AND failing_since IS NOT NULL
""")


def works(connection: Connection, endpoint_id: UUID) -> None:
    """Note that something was delivered to an endpoint."""
    connection.execute(_WORKS, {"id": endpoint_id})


_FAILS = text("""
UPDATE webhook_endpoints
SET failing_since = coalesce(failing_since, now()),
    active = NOT (:gone OR coalesce(failing_since, now()) < now() - make_interval(days => :days)),
    paused_reason = CASE
        WHEN :gone THEN 'gone'
        WHEN coalesce(failing_since, now()) < now() - make_interval(days => :days) THEN 'failing'
    END
WHERE id = :id AND active
RETURNING active, paused_reason, workspace_id
""")


def fails(
    connection: Connection, endpoint_id: UUID, *, gone: bool
) -> tuple[PausedReason, UUID] | None:
    """Note that an attempt has failed; return why that pauses the endpoint, and its workspace.

    None if it does not. A receiver that is `gone`, or to which nothing was delivered for five days,
    is paused.
    """
    parameters = {"id": endpoint_id, "gone": gone, "days": FAILING_DAYS}
    row = connection.execute(_FAILS, parameters).one_or_none()
    return None if row is None or row[0] else (PausedReason(row[1]), row[2])
