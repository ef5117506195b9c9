"""Deliveries to webhooks: what happened, claims of senders, and what became of the attempts.

Deliveries of executions, workflows and questions are written by the statements that end or ask
them (`executions/ended.py`, `workflows/runs.py`, `executions/park.py`).
"""

from collections.abc import Mapping, Sequence
from uuid import UUID

from sqlalchemy import Connection, Text, func, literal_column, text

from celeriac.db.locks import AdvisoryLock
from celeriac.db.paging import columns, given, newest, read_all, read_one, reader
from celeriac.db.schema.webhooks import deliveries as table
from celeriac.db.schema.webhooks import webhook_endpoints as endpoints
from celeriac.domain.webhooks import (
    Delivery,
    DeliveryDetails,
    DeliveryFilter,
    DeliveryStatus,
    Due,
    Reception,
)
from celeriac.kit.json_types import JsonObject, storable, storable_text

LANE_WIDTH = 2
"""How many deliveries of a lane are sent at once, by all senders together."""

LEASE_SECONDS = 60.0
"""A claim that has no result after so long is lost with its sender: the delivery is due again."""

_URL = func.coalesce(table.c.url, endpoints.c.url)
_SELECT = columns(Delivery, table, url=_URL).outerjoin_from(
    table, endpoints, endpoints.c.id == table.c.endpoint_id
)
_delivery = reader(Delivery)
_due = reader(Due)


def find(
    connection: Connection, wanted: DeliveryFilter, *, before: UUID | None, limit: int
) -> list[Delivery]:
    """Return up to `limit` deliveries older than `before`, the newest first."""
    query = given(
        _SELECT.where(table.c.workspace_id == wanted.workspace_id),
        (table.c.endpoint_id, wanted.endpoint_id),
        (table.c.execution_id, wanted.execution_id),
    )
    if wanted.status is not None:
        # a constant, as the index of what has not arrived has it
        status = literal_column(f"'{wanted.status.value}'", Text)
        query = query.where(table.c.status == status)
    return read_all(connection, newest(query, table.c.id, before=before, limit=limit), _delivery)


def get(connection: Connection, delivery_id: UUID, *, workspace: UUID) -> DeliveryDetails | None:
    """Return a delivery of `workspace` with its texts, or None."""
    query = _SELECT.add_columns(table.c.body, table.c.answer).where(
        table.c.id == delivery_id, table.c.workspace_id == workspace
    )
    return read_one(
        connection, query, lambda row: DeliveryDetails(_delivery(row), row.body, row.answer)
    )


_ADD = text("""
INSERT INTO deliveries (id, workspace_id, lane, endpoint_id, event, data)
VALUES (celeriac_uuid7(), :workspace_id, :endpoint_id, :endpoint_id, :event, CAST(:data AS jsonb))
RETURNING id
""")


def add(
    connection: Connection, endpoint_id: UUID, *, workspace_id: UUID, event: str, data: JsonObject
) -> UUID:
    """Add a delivery to one endpoint, due now; return its id."""
    parameters = {
        "workspace_id": workspace_id,
        "endpoint_id": endpoint_id,
        "event": event,
        "data": storable(data),
    }
    delivery_id: UUID = connection.execute(_ADD, parameters).scalar_one()
    return delivery_id


_ADD_ONCE = text("""
INSERT INTO deliveries (id, workspace_id, lane, endpoint_id, event, execution_id, data, once)
SELECT celeriac_uuid7(), workspace_id, id, id, :event, :execution_id, CAST(:data AS jsonb), :once
FROM webhook_endpoints
WHERE workspace_id = :workspace_id AND active AND :event = ANY (events)
ON CONFLICT DO NOTHING
""")


def add_once(
    connection: Connection,
    workspace_id: UUID,
    *,
    event: str,
    once: str,
    execution_id: UUID | None = None,
    data: JsonObject,
) -> None:
    """Add a delivery to each endpoint of a workspace that wants `event` and has none for `once`."""
    parameters = {
        "workspace_id": workspace_id,
        "event": event,
        "once": once,
        "execution_id": execution_id,
        "data": storable(data),
    }
    connection.execute(_ADD_ONCE, parameters)


_ALONE = text(f"SELECT {AdvisoryLock.DELIVERIES.tried}")


def claiming_alone(connection: Connection) -> bool:
    """Lock claims until the transaction ends; False if another sender has locked them.

    The statement after it sees all claims that were made before, so that no lane gets too many.
    """
    return bool(connection.execute(_ALONE).scalar_one())


# Lanes are found one by one in the index of what is due: a lane costs the same whatever waits in
# it. Lanes whose last attempt failed come last, and get a part of the places only.
_CLAIM = text("""
WITH RECURSIVE lanes AS (
    (SELECT lane FROM deliveries WHERE status = 'pending' ORDER BY lane LIMIT 1)
    UNION ALL
    SELECT (SELECT d.lane FROM deliveries d
            WHERE d.status = 'pending' AND d.lane > lanes.lane ORDER BY d.lane LIMIT 1)
    FROM lanes WHERE lanes.lane IS NOT NULL
), busy AS (
    SELECT lane, count(*) AS number FROM deliveries
    WHERE lease_until IS NOT NULL AND lease_until > now() GROUP BY lane
), due AS (
    SELECT d.id, d.available_at, lanes.lane = ANY (CAST(:failing AS uuid[])) AS fails
    FROM lanes LEFT JOIN busy ON busy.lane = lanes.lane,
    LATERAL (
        SELECT id, available_at FROM deliveries
        WHERE lane = lanes.lane AND status = 'pending' AND available_at <= now()
        ORDER BY available_at
        LIMIT greatest(0, :width - coalesce(busy.number, 0))
    ) AS d
), ranked AS (
    SELECT id, fails, available_at, row_number() OVER (PARTITION BY fails ORDER BY available_at)
           AS place
    FROM due
), picked AS (
    SELECT id FROM ranked WHERE NOT fails OR place <= :most_failing
    ORDER BY fails, available_at
    LIMIT :limit
), locked AS (
    SELECT d.id FROM deliveries d
    WHERE d.id = ANY (ARRAY(SELECT id FROM picked)) AND d.status = 'pending'
    FOR NO KEY UPDATE SKIP LOCKED
)
UPDATE deliveries d
SET lease_token = gen_random_uuid(), lease_until = now() + make_interval(secs => :seconds),
    available_at = now() + make_interval(secs => :seconds), attempted_at = now(),
    attempts = d.attempts + 1, tries = d.tries + 1
WHERE d.id = ANY (ARRAY(SELECT id FROM locked))
RETURNING d.id, d.lease_token, d.workspace_id, d.lane, d.endpoint_id,
          coalesce(d.url, (SELECT w.url FROM webhook_endpoints w
                           WHERE w.id = d.endpoint_id AND w.active)),
          d.event, d.execution_id, d.run_id, d.approval_id, d.data, d.body, d.tries, d.created_at,
          (SELECT w.secret_number FROM webhook_endpoints w WHERE w.id = d.endpoint_id),
          (SELECT w.previous_until > now() FROM webhook_endpoints w WHERE w.id = d.endpoint_id)
""")


def claim(
    connection: Connection, *, limit: int, failing: Sequence[UUID], most_failing: int
) -> list[Due]:
    """Claim up to `limit` due deliveries for a minute, at most two of a lane at once.

    Those of the lanes in `failing` come last, and are at most `most_failing`. Call it after
    `claiming_alone`, in the same transaction.
    """
    parameters = {
        "limit": limit,
        "failing": list(failing),
        "most_failing": most_failing,
        "width": LANE_WIDTH,
        "seconds": LEASE_SECONDS,
    }
    return [_due(row) for row in connection.execute(_CLAIM, parameters)]


_KEEP_BODIES = text("""
UPDATE deliveries d SET body = given.body
FROM unnest(CAST(:ids AS uuid[]), CAST(:bodies AS text[])) AS given (id, body)
WHERE d.id = given.id AND d.id = ANY (CAST(:ids AS uuid[])) AND d.body IS NULL
""")


def keep_bodies(connection: Connection, bodies: Mapping[UUID, str]) -> None:
    """Store what is sent, before it is sent for the first time."""
    if bodies:
        parameters = {"ids": list(bodies), "bodies": list(bodies.values())}
        connection.execute(_KEEP_BODIES, parameters)


_RECORD = text("""
UPDATE deliveries
SET status = :status, lease_token = NULL, lease_until = NULL,
    available_at = CASE WHEN :status = 'pending' THEN now() + make_interval(secs => :pause)
                        ELSE now() END,
    delivered_at = CASE WHEN :status = 'delivered' THEN now() ELSE delivered_at END,
    status_code = :status_code, error = :error, answer = :answer, duration_ms = :duration_ms
WHERE id = :id AND lease_token = :token
RETURNING id
""")


def record(
    connection: Connection, due: Due, reception: Reception, *, pause: float | None
) -> DeliveryStatus | None:
    """Store what became of an attempt; None if the claim was lost meanwhile.

    After a failure it is sent again in `pause` seconds, or never if that is None.
    """
    if reception.error is None:
        status = DeliveryStatus.DELIVERED
    else:
        status = DeliveryStatus.FAILED if pause is None else DeliveryStatus.PENDING
    parameters = {
        "id": due.id,
        "token": due.token,
        "status": status.value,
        "pause": pause or 0.0,
        "status_code": reception.status_code,
        "error": None if reception.error is None else storable_text(reception.error),
        "answer": storable_text(reception.answer),
        "duration_ms": int(reception.seconds * 1000),
    }
    return None if connection.execute(_RECORD, parameters).first() is None else status


_GIVE_UP = text("""
UPDATE deliveries SET status = 'failed', error = :reason
WHERE lane = :lane AND status = 'pending' AND lease_until IS NULL
""")


def give_up(connection: Connection, endpoint_id: UUID, reason: str) -> None:
    """Let what waits for an endpoint fail; it can be sent again when somebody asks for it."""
    connection.execute(_GIVE_UP, {"lane": endpoint_id, "reason": reason})


_AGAIN = text("""
UPDATE deliveries
SET status = 'pending', available_at = now(), tries = 0
WHERE id = :id AND (lease_until IS NULL OR lease_until <= now())
RETURNING id
""")


def send_again(connection: Connection, delivery_id: UUID) -> bool:
    """Make a delivery due now, with all its tries; False while it is being sent."""
    return connection.execute(_AGAIN, {"id": delivery_id}).first() is not None
