"""Changes of the labels of executions: the row and the table that is searched, in one statement."""

from uuid import UUID

from sqlalchemy import Connection, text

from celeriac.db import spans
from celeriac.domain.labels import Labels
from celeriac.kit.json_types import dumps

_READ = text(f"""
SELECT labels FROM executions WHERE {spans.given("id")} AND workspace_id = :workspace_id FOR UPDATE
""")


def lock(connection: Connection, execution_id: UUID, *, workspace: UUID) -> Labels | None:
    """Lock an execution of a workspace and return its labels, or None if there is none."""
    parameters = {**spans.of([execution_id]), "workspace_id": workspace}
    row = connection.execute(_READ, parameters).one_or_none()
    return None if row is None else row[0] or {}


_WRITE = text(f"""
WITH wanted AS (
    SELECT key, value FROM json_each_text(CAST(:labels AS json))
), changed AS (
    UPDATE executions SET labels = CAST(nullif(CAST(:labels AS text), '{{}}') AS json)
    WHERE {spans.given("id")}
    RETURNING id, workspace_id
), gone AS (
    DELETE FROM execution_labels l
    WHERE l.execution_id IN (SELECT id FROM changed)
      AND NOT EXISTS (SELECT FROM wanted w WHERE w.key = l.key AND w.value = l.value)
)
INSERT INTO execution_labels (workspace_id, key, value, execution_id)
SELECT c.workspace_id, w.key, w.value, c.id FROM changed c, wanted w
ON CONFLICT DO NOTHING
""")


def write(connection: Connection, execution_id: UUID, labels: Labels) -> None:
    """Replace the labels of an execution, which the caller has locked."""
    parameters = {**spans.of([execution_id]), "labels": dumps(dict(labels))}
    connection.execute(_WRITE, parameters)
