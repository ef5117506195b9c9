"""Changes of the labels of executions: the row and the table that is searched, in one statement."""

from uuid import UUID

from sqlalchemy import Connection, text

from celeriac.db import spans
from celeriac.domain.executions.model import Lease
from celeriac.domain.labels import Labels
from celeriac.kit.json_types import JsonObject, dumps

_READ = text(f"""
SELECT labels FROM executions WHERE {spans.given("id")} AND workspace_id = :workspace_id FOR UPDATE
""")


def lock(connection: Connection, execution_id: UUID, *, workspace: UUID) -> Labels | None:
    """Lock an execution of a workspace and return its labels, or None if there is none."""
    parameters = {**spans.of([execution_id]), "workspace_id": workspace}
    row = connection.execute(_READ, parameters).one_or_none()
    return None if row is None else row[0] or {}


_READ_HELD = text(f"""
SELECT labels FROM executions
WHERE {spans.given("id")} AND status = 'running' AND attempt = :attempt AND lease_token = :token
FOR UPDATE
""")


def lock_held(connection: Connection, lease: Lease) -> Labels | None:
    """Lock the execution of a lease and return its labels, or None if the lease is lost."""
    parameters = {
        **spans.of([lease.execution_id]),
        "attempt": lease.attempt,
        "token": lease.token,
    }
    row = connection.execute(_READ_HELD, parameters).one_or_none()
    return None if row is None else row[0] or {}


_STATEMENT = """
WITH wanted AS (
    SELECT key, value FROM json_each_text(CAST(:labels AS json))
), changed AS (
    UPDATE executions SET labels = CAST(nullif(CAST(:labels AS text), '{{}}') AS json){columns}
    WHERE {given}
    RETURNING id, workspace_id, attempt, event_seq
), gone AS (
    DELETE FROM execution_labels l
    WHERE l.execution_id IN (SELECT id FROM changed)
      AND NOT EXISTS (SELECT FROM wanted w WHERE w.key = l.key AND w.value = l.value)
){logged}
INSERT INTO execution_labels (workspace_id, key, value, execution_id)
SELECT c.workspace_id, w.key, w.value, c.id FROM changed c, wanted w
ON CONFLICT DO NOTHING
"""
_WRITE = text(_STATEMENT.format(given=spans.given("id"), columns="", logged=""))
_WRITE_WITH_EVENT = text(
    _STATEMENT.format(
        given=spans.given("id"),
        columns=", active_at = now(), event_seq = event_seq + 1",
        logged=""", logged AS (
    INSERT INTO events (execution_id, seq, type, attempt, data)
    SELECT id, event_seq, 'labelled', attempt, CAST(:event AS json) FROM changed
)""",
    )
)


def write(
    connection: Connection, execution_id: UUID, labels: Labels, *, event: JsonObject | None = None
) -> None:
    """Replace the labels of an execution, which the caller has locked.

    `event` is the data of the event `labelled`, if there is to be one.
    """
    parameters = {**spans.of([execution_id]), "labels": dumps(dict(labels))}
    if event is None:
        connection.execute(_WRITE, parameters)
    else:
        connection.execute(_WRITE_WITH_EVENT, {**parameters, "event": dumps(event)})
