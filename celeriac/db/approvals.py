"""Questions of agents, and their answers."""

from uuid import UUID

from sqlalchemy import Connection, select, text

from celeriac.db.models import approvals as table
from celeriac.db.transitions import question_columns
from celeriac.domain.approval import Answer, ApprovalStatus, Question
from celeriac.domain.execution import Lease

_ASK = text("""
WITH held AS (
    SELECT id, task_id, owner_id, attempt FROM executions
    WHERE id = :id AND attempt = :attempt AND lease_token = :token AND lease_until IS NOT NULL
    FOR UPDATE
), asked AS (
    INSERT INTO approvals (id, execution_id, task_id, owner_id, attempt, key, kind, title, tool,
                           arguments, schema, on_expiry, "default", expires_at)
    SELECT q.id, held.id, held.task_id, held.owner_id, held.attempt, q.key, q.kind, q.title,
           q.tool, q.arguments::jsonb, q.schema::jsonb, q.on_expiry, q.default_value::jsonb,
           now() + make_interval(secs => q.expires)
    FROM held,
         unnest(CAST(:question_ids AS uuid[]), CAST(:keys AS text[]), CAST(:kinds AS text[]),
                CAST(:titles AS text[]), CAST(:tools AS text[]), CAST(:arguments AS text[]),
                CAST(:schemas AS text[]), CAST(:on_expiries AS text[]),
                CAST(:defaults AS text[]), CAST(:expiries AS double precision[]))
         AS q (id, key, kind, title, tool, arguments, schema, on_expiry, default_value, expires)
    ON CONFLICT (execution_id, key) DO NOTHING
)
SELECT id FROM held
""")


def ask(connection: Connection, lease: Lease, question: Question) -> bool:
    """Store a question, unless it is known; False for a lost lease."""
    row = connection.execute(
        _ASK,
        {
            "id": lease.execution_id,
            "attempt": lease.attempt,
            "token": lease.token,
            **question_columns([question]),
        },
    ).one_or_none()
    return row is not None


def answers(connection: Connection, execution_id: UUID) -> dict[str, Answer]:
    """Return the answers to an execution's questions, by key."""
    query = select(table).where(
        table.c.execution_id == execution_id,
        table.c.status.in_([ApprovalStatus.ANSWERED, ApprovalStatus.EXPIRED]),
    )
    return {
        row.key: Answer(row.approved, row.value, row.note or "", row.answered_by or "")
        for row in connection.execute(query)
    }
