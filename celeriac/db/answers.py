"""The ends of questions: answered, run out, or not needed any more.

Whoever writes both an execution and its questions takes the execution's row first: so an answer and
a parking that meet wait for each other, and the later one sees what the earlier one did.
"""

from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import Connection, text

from celeriac.domain.agent.tools import OnExpiry
from celeriac.domain.approval import Answer
from celeriac.kit.jsontypes import storable, storable_text

_HOLD = text("""
SELECT e.id FROM executions e JOIN approvals a ON a.execution_id = e.id
WHERE a.id = :id
FOR UPDATE OF e
""")

_LOGGED = """
, numbered AS (
    UPDATE executions e SET event_seq = e.event_seq + counted.many
    FROM (SELECT execution_id, count(*) AS many FROM given GROUP BY execution_id) AS counted
    WHERE e.id = counted.execution_id
    RETURNING e.id, e.event_seq - counted.many AS first_number, e.attempt
), logged AS (
    INSERT INTO events (execution_id, seq, type, attempt, data)
    SELECT n.id, n.first_number
                 + row_number() OVER (PARTITION BY n.id ORDER BY given.id),
           'approval_answered', n.attempt,
           jsonb_build_object('approval_id', given.id, 'approved', given.approved,
                              'by', given.answered_by)
    FROM numbered n JOIN given ON given.execution_id = n.id
)"""

_ANSWERING = text(
    """
WITH given AS (
    UPDATE approvals
    SET status = 'answered', approved = :approved, value = CAST(:value AS jsonb), note = :note,
        answered_at = now(), answered_by = :by
    WHERE id = :id AND status = 'open' AND expires_at > now()
      AND EXISTS (SELECT FROM executions e WHERE e.id = approvals.execution_id
                  AND e.status NOT IN ('completed', 'failed', 'cancelled'))
    RETURNING id, execution_id, approved, answered_by
)"""  # noqa: S608 - put together from constants
    + _LOGGED
    + """
SELECT id FROM given
"""
)


def answer(connection: Connection, approval_id: UUID, given: Answer) -> bool:
    """Store the answer to an open question with its event; False where it isn't open any more.

    Two statements: the caller gives a transaction.
    """
    connection.execute(_HOLD, {"id": approval_id})
    parameters = {
        "id": approval_id,
        "approved": given.approved,
        "value": None if given.value is None else storable(given.value),
        "note": storable_text(given.note),
        "by": storable_text(given.by),
    }
    return connection.execute(_ANSWERING, parameters).one_or_none() is not None


_REVOKE_LINKS = text("UPDATE approvals SET links_revoked = links_revoked + 1 WHERE id = :id")


def revoke_links(connection: Connection, approval_id: UUID) -> None:
    """Count one more revocation of a question's links."""
    connection.execute(_REVOKE_LINKS, {"id": approval_id})


_HOLD_DUE = text("""
SELECT a.id FROM approvals a JOIN executions e ON e.id = a.execution_id
WHERE a.status = 'open' AND a.expires_at <= now()
  AND e.status NOT IN ('completed', 'failed', 'cancelled')
ORDER BY a.expires_at
LIMIT :limit
FOR UPDATE OF e SKIP LOCKED
""")

_EXPIRE = text(
    """
WITH given AS (
    UPDATE approvals
    SET status = 'expired', approved = on_expiry = 'approve',
        value = CASE on_expiry WHEN 'approve' THEN "default" END,
        note = 'Nobody answered in time.', answered_at = now(), answered_by = 'expiry'
    WHERE id = ANY(CAST(:ids AS uuid[])) AND status = 'open'
    RETURNING id, execution_id, approved, answered_by, on_expiry, title
)"""  # noqa: S608 - put together from constants
    + _LOGGED
    + """
SELECT id, execution_id, on_expiry, title FROM given ORDER BY id
"""
)


@dataclass(frozen=True, slots=True)
class Expired:
    """A question that nobody answered in time."""

    id: UUID
    execution_id: UUID
    on_expiry: OnExpiry
    title: str


def expire_due(connection: Connection, *, limit: int) -> list[Expired]:
    """Give questions whose time is over the answers that they name, with their events.

    Two statements: the caller gives a transaction. Those that others work on are left to them.
    """
    ids = list(connection.execute(_HOLD_DUE, {"limit": limit}).scalars())
    if not ids:
        return []
    rows = connection.execute(_EXPIRE, {"ids": ids})
    return [Expired(row.id, row.execution_id, OnExpiry(row.on_expiry), row.title) for row in rows]


_WITHDRAW = text("""
UPDATE approvals a SET status = 'withdrawn'
FROM (
    SELECT o.id FROM approvals o LEFT JOIN executions e ON e.id = o.execution_id
    WHERE o.status = 'open' AND (e.id IS NULL OR e.status IN ('completed', 'failed', 'cancelled'))
    LIMIT :limit
    FOR UPDATE OF o SKIP LOCKED
) AS ended
WHERE a.id = ended.id
RETURNING a.id
""")


def withdraw_ended(connection: Connection, *, limit: int) -> int:
    """Withdraw open questions of executions that have ended; return how many."""
    return len(connection.execute(_WITHDRAW, {"limit": limit}).all())
