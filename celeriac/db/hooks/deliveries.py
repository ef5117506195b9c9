"""Deliveries to hooks: stored with what they start; of those that start nothing, the last."""

from uuid import UUID

from sqlalchemy import Boolean, Connection, literal_column, text

from celeriac.db.paging import columns, newest, read_all, reader, written_out
from celeriac.db.schema.hooks import hook_deliveries as table
from celeriac.domain.executions.deliveries import DeliveryKeys, NewHookDelivery
from celeriac.domain.hooks.model import (
    MOST_REFUSED,
    HookDelivery,
    HookDeliveryStatus,
)
from celeriac.kit.ids import uuid7

_SELECT = columns(HookDelivery, table)
_delivery = reader(HookDelivery)

_ACCEPT = text("""
INSERT INTO hook_deliveries
    (id, workspace_id, hook_id, status, verified, delivery_id, digest, size, execution_id, run_id)
VALUES (:id, :workspace_id, :hook_id, 'accepted', true, :delivery_id, :digest, :size,
        :execution_id, :run_id)
ON CONFLICT DO NOTHING
RETURNING id
""")


def accept(
    connection: Connection,
    new: NewHookDelivery,
    *,
    execution_id: UUID | None = None,
    run_id: UUID | None = None,
) -> UUID | None:
    """Store a delivery with what it starts; return what an earlier one with its name has started.

    None: it is stored now. Waits for a transaction that stores the same delivery.
    """
    parameters = {
        "id": uuid7(),
        "workspace_id": new.workspace_id,
        "hook_id": new.hook_id,
        "delivery_id": new.keys.name,
        "digest": new.keys.digest,
        "size": new.size,
        "execution_id": execution_id,
        "run_id": run_id,
    }
    while connection.execute(_ACCEPT, parameters).first() is None:
        earlier = started(connection, new.hook_id, new.keys)
        if earlier is not None:  # otherwise retention has deleted it in between
            return earlier
    return None


# two parts, so that each is found in its own partial index
_STARTED = text("""
SELECT coalesce(execution_id, run_id) FROM hook_deliveries
WHERE hook_id = :hook_id AND status = 'accepted' AND delivery_id = :delivery_id
UNION ALL
SELECT coalesce(execution_id, run_id) FROM hook_deliveries
WHERE hook_id = :hook_id AND status = 'accepted' AND digest = :digest
LIMIT 1
""")


def started(connection: Connection, hook_id: UUID, keys: DeliveryKeys) -> UUID | None:
    """Return the execution or run that a delivery with one of `keys` has started, or None."""
    parameters = {"hook_id": hook_id, "delivery_id": keys.name, "digest": keys.digest}
    found: UUID | None = connection.execute(_STARTED, parameters).scalar_one_or_none()
    return found


_NOTE = text("""
WITH gone AS (
    DELETE FROM hook_deliveries
    WHERE hook_id = :hook_id AND status <> 'accepted' AND status = :status AND verified = :verified
      AND id <= (
        SELECT id FROM hook_deliveries
        WHERE hook_id = :hook_id AND status <> 'accepted' AND status = :status
          AND verified = :verified
        ORDER BY id DESC OFFSET :kept LIMIT 1)
)
INSERT INTO hook_deliveries
    (id, workspace_id, hook_id, status, reason, message, verified, delivery_id, size)
VALUES (:id, :workspace_id, :hook_id, :status, :reason, :message, :verified, :delivery_id, :size)
""")


def note(
    connection: Connection,
    hook_id: UUID,
    *,
    workspace_id: UUID,
    status: HookDeliveryStatus,
    verified: bool,
    reason: str | None,
    message: str | None,
    delivery_id: str | None,
    size: int,
) -> None:
    """Store a delivery that has started nothing, and delete the oldest of its kind over the limit.

    Of a hook the last 50 are kept of those that were ignored, of those that were refused, and of
    those that were refused and not verified: strangers push out only what strangers have sent.
    """
    parameters = {
        "id": uuid7(),
        "workspace_id": workspace_id,
        "hook_id": hook_id,
        "status": status.value,
        "verified": verified,
        "reason": reason,
        "message": message,
        "delivery_id": delivery_id,
        "size": size,
        "kept": MOST_REFUSED - 1,
    }
    connection.execute(_NOTE, parameters)


def find(
    connection: Connection,
    *,
    hook_id: UUID,
    status: HookDeliveryStatus | None,
    before: UUID | None,
    limit: int,
) -> list[HookDelivery]:
    """Return up to `limit` deliveries of a hook older than `before`, the newest first."""
    query = _SELECT.where(table.c.hook_id == hook_id)
    if status is not None:
        # a constant, as the index of the few that were not accepted has it
        query = query.where(table.c.status == written_out(status, table.c.status))
        if status is not HookDeliveryStatus.ACCEPTED:
            query = query.where(literal_column("status <> 'accepted'", Boolean))
    return read_all(connection, newest(query, table.c.id, before=before, limit=limit), _delivery)
