"""Questions of approval steps: asked, answered, expired and withdrawn.

A question belongs to a run and a step of it. The statement that closes it stores the outcome of the
step's item and counts the item down, so the step becomes due exactly once. All of them need the
lock of the run: it makes an answer, an expiry and a stop of the step come one after the other.
"""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import Connection, text

from celeriac.db.executions.guards import with_guards
from celeriac.db.executions.park import LONGEST_TITLE, event_data, shown
from celeriac.db.executions.run_items import COUNT_DOWN
from celeriac.db.workflows import runs
from celeriac.domain.approvals import Question
from celeriac.domain.executions.events import EventType
from celeriac.domain.workflows.records import WorkflowRun
from celeriac.kit.ids import uuid7
from celeriac.kit.json_types import loads, storable, storable_text
from celeriac.kit.text import clip_counted

_ASK = text("""
WITH asked AS (
    INSERT INTO approvals (id, run_id, workflow_id, step_no, workspace_id, owner_id, key, kind,
                           title, arguments, on_expiry, "default", expires_at)
    VALUES (:id, :run_id, :workflow_id, :step_no, :workspace_id, :owner_id, :key, :kind, :title,
            CAST(:arguments AS json), :on_expiry, 'null',
            now() + make_interval(secs => CAST(:seconds AS double precision)))
    RETURNING id, run_id, expires_at
), delivered AS (
    INSERT INTO deliveries (id, workspace_id, lane, endpoint_id, run_id, approval_id, event)
    SELECT celeriac_uuid7(), w.workspace_id, w.id, w.id, asked.run_id, asked.id, 'approval.asked'
    FROM asked, webhook_endpoints w
    WHERE w.workspace_id = :workspace_id AND w.active AND 'approval.asked' = ANY (w.events)
)
SELECT expires_at FROM asked
""")


def ask(connection: Connection, run: WorkflowRun, step_no: int, question: Question) -> UUID:
    """Store the question of a step of a locked run, with its event and deliveries; return its id.

    A unique index over run and step forbids a second one.
    """
    approval_id = uuid7()
    title = clip_counted(storable_text(question.title), LONGEST_TITLE)
    parameters = {
        "id": approval_id,
        "run_id": run.id,
        "workflow_id": run.workflow_id,
        "step_no": step_no,
        "workspace_id": run.workspace_id,
        "owner_id": run.owner_id,
        "key": question.key,
        "kind": question.kind,
        "title": title,
        "arguments": storable(shown(question.arguments)),
        "on_expiry": question.on_expiry,
        "seconds": question.expires_seconds,
    }
    expires_at = connection.execute(_ASK, parameters).scalar_one()
    more = loads(event_data(question.arguments))
    assert isinstance(more, dict), "the event's data"
    asked = {
        "approval_id": str(approval_id),
        "step": question.key,
        "kind": question.kind.value,
        "title": title,
        "expires_at": expires_at.isoformat(),
        **more,
    }
    runs.log(connection, run.id, [(EventType.APPROVAL_ASKED, asked)])
    return approval_id


_CLOSING = f"""
, closed AS (
    SELECT *, CASE WHEN status = 'withdrawn' THEN 'cancelled' WHEN approved THEN 'completed'
                   WHEN status = 'expired' AND on_expiry = 'fail' THEN 'failed'
                   ELSE 'denied' END AS outcome
    FROM given
), noted AS (
    UPDATE step_items i
    SET status = c.outcome,
        result = CASE WHEN c.status <> 'withdrawn' THEN json_build_object(
            'approval_id', c.id, 'approved', c.approved, 'by', c.answered_by, 'note', c.note,
            'expired', c.status = 'expired',
            'at', to_char(c.answered_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')) END,
        error_code = CASE c.outcome WHEN 'failed' THEN 'approval_expired' END,
        error_message = CASE c.outcome WHEN 'failed'
                        THEN 'Nobody answered in time: ' || c.title END
    FROM closed c
    WHERE i.run_id = ANY (ARRAY(SELECT run_id FROM closed))
      AND i.run_id = c.run_id AND i.step_no = c.step_no AND i.approval_id = c.id
), ended AS (
    -- what a person has denied is not done: it counts as cancelled
    SELECT run_id, step_no, 0 AS item_no,
           CASE outcome WHEN 'denied' THEN 'cancelled' ELSE outcome END AS status
    FROM closed
){"".join(f", {name} AS ({part})" for name, part in COUNT_DOWN.items())}
, numbered AS (
    UPDATE workflow_runs r SET event_seq = r.event_seq + counted.many
    FROM (SELECT run_id, count(*) AS many FROM closed WHERE status <> 'withdrawn'
          GROUP BY run_id) AS counted
    WHERE r.id = ANY (ARRAY(SELECT run_id FROM closed)) AND r.id = counted.run_id
    RETURNING r.id, r.event_seq - counted.many AS first_number
), logged AS (
    INSERT INTO events (execution_id, seq, type, attempt, data)
    SELECT n.id, n.first_number + row_number() OVER (PARTITION BY n.id ORDER BY c.id),
           'approval_answered', 0,
           jsonb_build_object('approval_id', c.id, 'step', c.key, 'approved', c.approved,
                              'by', c.answered_by)
    FROM numbered n JOIN closed c ON c.run_id = n.id
)
SELECT id, run_id, key, answered_at FROM closed ORDER BY id
"""  # noqa: S608 - put together from constants
"""Follows `given`, an UPDATE of questions of runs that returns `{columns}`."""

_COLUMNS = (
    "id, run_id, step_no, key, status, on_expiry, approved, answered_at, answered_by, note, title"
)

_ANSWER = with_guards(
    """
WITH given AS (
    UPDATE approvals
    SET status = 'answered', approved = :approved, note = :note, answered_at = now(),
        answered_by = :by
    WHERE id = :id AND run_id IS NOT NULL AND status = 'open' AND expires_at > now()
    RETURNING {columns}
){closing}
""",
    {"columns": _COLUMNS, "closing": _CLOSING},
)


def answer(
    connection: Connection, approval_id: UUID, *, approved: bool, note: str, by: str
) -> datetime | None:
    """Store the answer to a question of a locked run; return when, or None if it isn't open."""
    parameters = {"id": approval_id, "approved": approved, "note": note, "by": by}
    row = connection.execute(_ANSWER, parameters).one_or_none()
    return None if row is None else row[3]


_HOLD_DUE = text("""
SELECT a.id FROM approvals a JOIN workflow_runs r ON r.id = a.run_id
WHERE a.status = 'open' AND a.expires_at <= now()
ORDER BY a.expires_at
LIMIT :limit
FOR NO KEY UPDATE OF r SKIP LOCKED
""")

_EXPIRE = with_guards(
    """
WITH given AS (
    UPDATE approvals
    SET status = 'expired', approved = false, note = 'Nobody answered in time.',
        answered_at = now(), answered_by = 'expiry'
    WHERE id = ANY(CAST(:ids AS uuid[])) AND run_id IS NOT NULL AND status = 'open'
    RETURNING {columns}
){closing}
""",
    {"columns": _COLUMNS, "closing": _CLOSING},
)


@dataclass(frozen=True, slots=True)
class ExpiredStep:
    """A question of a run that nobody answered in time."""

    id: UUID
    run_id: UUID
    step: str


def expire_due(connection: Connection, *, limit: int) -> list[ExpiredStep]:
    """Close questions of runs that nobody answered in time. Runs that are locked are skipped.

    Needs a transaction.
    """
    due = list(connection.execute(_HOLD_DUE, {"limit": limit}).scalars())
    if not due:
        return []
    rows = connection.execute(_EXPIRE, {"ids": due})
    return [ExpiredStep(row.id, row.run_id, row.key) for row in rows]


_WITHDRAW = with_guards(
    """
WITH given AS (
    UPDATE approvals SET status = 'withdrawn'
    WHERE run_id = :run_id AND step_no = :step_no
      -- not status = 'open': the plan would read an index of all open questions
      AND status || '' = 'open'
    RETURNING {columns}
){closing}
""",
    {"columns": _COLUMNS, "closing": _CLOSING},
)


def withdraw(connection: Connection, run_id: UUID, step_no: int) -> None:
    """Withdraw the question of a step of a locked run, if it is open; its item is cancelled."""
    connection.execute(_WITHDRAW, {"run_id": run_id, "step_no": step_no})
