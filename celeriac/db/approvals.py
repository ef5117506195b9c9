"""Approvals: questions, answers, and notifications about them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Row, Select, and_, func, or_, select, text
from sqlalchemy.exc import IntegrityError

from celeriac.db.executions.ended import hold_rows
from celeriac.db.executions.park import QUESTION_PARTS, question_columns
from celeriac.db.paging import (
    Rows,
    columns,
    given,
    matching,
    newest,
    read_all,
    read_bounded,
    read_one,
    reader,
)
from celeriac.db.schema.approvals import approvals as table
from celeriac.db.schema.catalog import tasks, workflows
from celeriac.db.schema.executions import executions
from celeriac.db.schema.workflows import workflow_runs
from celeriac.db.workflows import questions
from celeriac.domain.approvals import (
    Answer,
    Approval,
    ApprovalFilter,
    ApprovalStatus,
    OnExpiry,
    Question,
    QuestionKind,
)
from celeriac.domain.executions.model import Lease
from celeriac.kit.json_types import storable, storable_text

_OTHERS = {
    "task_name": tasks.c.name,
    "workflow_name": workflows.c.name,
    "expired": or_(
        table.c.status == ApprovalStatus.EXPIRED,
        and_(table.c.status == ApprovalStatus.OPEN, table.c.expires_at <= func.now()),
    ),
}
"""Fields of an `Approval` that are no columns of the table."""

_SELECT = (
    columns(Approval, table, **_OTHERS)
    .outerjoin_from(table, tasks, tasks.c.id == table.c.task_id)
    .outerjoin(workflows, workflows.c.id == table.c.workflow_id)
)
_approval = reader(Approval)
_BULKY = (table.c.title, table.c.arguments, table.c.schema, table.c.default, table.c.value)
_ANSWER = (table.c.approved, table.c.value, table.c.note, table.c.answered_by)

_ASK = text(
    """
WITH {new_questions}, done AS (
    UPDATE executions SET event_seq = event_seq + {fresh_count}
    WHERE id = :id AND attempt = :attempt AND lease_token = :token AND status = 'running'
    RETURNING id, attempt, task_id, workspace_id, owner_id, true AS asks,
              event_seq - {fresh_count} AS first_number
){insert_questions}
SELECT EXISTS (SELECT FROM fresh) AS fresh,
       coalesce((SELECT id FROM fresh),
                (SELECT a.id FROM approvals a
                 WHERE a.execution_id = :id AND a.key = (CAST(:keys AS text[]))[1])) AS id
FROM done
""".format_map(QUESTION_PARTS)
)


@dataclass(frozen=True, slots=True)
class Asked:
    """A stored question; `fresh` if it was not stored before."""

    id: UUID
    fresh: bool


def ask(connection: Connection, lease: Lease, question: Question) -> Asked | None:
    """Store a question with its event, unless it is known; None for a lost lease.

    Needs autocommit: if the attempt stores the same question concurrently, the statement is
    repeated.
    """
    parameters = {
        "id": lease.execution_id,
        "attempt": lease.attempt,
        "token": lease.token,
        **question_columns([question]),
    }
    try:
        row = connection.execute(_ASK, parameters).one_or_none()
    except IntegrityError:
        row = connection.execute(_ASK, parameters).one_or_none()  # finds it this time
    return None if row is None else Asked(row.id, row.fresh)


def answers(
    connection: Connection, execution_id: UUID, *, kind: QuestionKind | None = None
) -> dict[str, Answer]:
    """Return the answers to an execution's questions, of one kind or of all, by key."""
    query = select(table.c.key, *_ANSWER).where(
        table.c.execution_id == execution_id,
        table.c.status.in_([ApprovalStatus.ANSWERED, ApprovalStatus.EXPIRED]),
    )
    if kind is not None:
        query = query.where(table.c.kind == kind)
    return {row.key: _answer(row) for row in connection.execute(query)}


def lock_open_about_budget(
    connection: Connection, key_prefix: str, *, limit: int
) -> list[Approval]:
    """Return open questions about a budget whose keys begin with `key_prefix`; see `lock`."""
    query = _SELECT.join(executions, executions.c.id == table.c.execution_id).where(
        text("approvals.kind = 'budget' AND approvals.status = 'open'"),  # as the index has it
        table.c.expires_at > func.now(),
        func.starts_with(table.c.key, key_prefix),
    )
    query = query.order_by(table.c.execution_id).limit(limit).with_for_update(of=executions)
    return read_all(connection, query, _approval)


@dataclass(frozen=True, slots=True)
class Closed:
    """A question that is no longer open, and its answer if it has one."""

    status: ApprovalStatus
    on_expiry: OnExpiry
    title: str
    answer: Answer


def closed(connection: Connection, approval_ids: Sequence[UUID]) -> dict[UUID, Closed]:
    """Return those of the questions that are no longer open; a deleted one counts as withdrawn."""
    query = select(table.c.id, table.c.status, table.c.on_expiry, table.c.title, *_ANSWER).where(
        table.c.id.in_(approval_ids)
    )
    found = {row.id: row for row in connection.execute(query)}
    return {
        approval_id: _closed(found[approval_id]) if approval_id in found else _GONE
        for approval_id in approval_ids
        if approval_id not in found or found[approval_id].status != ApprovalStatus.OPEN
    }


def get(connection: Connection, approval_id: UUID, *, workspace: UUID | None) -> Approval | None:
    """Return a question of `workspace` (None: of any), or None."""
    return _one(connection, _SELECT, approval_id, workspace)


def find(
    connection: Connection, wanted: ApprovalFilter, *, before: UUID | None, limit: int
) -> Rows[Approval]:
    """Return up to `limit` questions older than `before`, the newest first."""
    query = newest(_SELECT, table.c.id, before=before, limit=limit)
    query = matching(query, table, wanted, "workspace_id", "execution_id", "run_id")
    if list(wanted.statuses) == [ApprovalStatus.OPEN]:
        query = query.where(text("approvals.status = 'open'"))  # as its index says it
    elif wanted.statuses:
        query = query.where(table.c.status.in_(wanted.statuses))
    return read_bounded(connection, query, _approval, bulky=_BULKY)


_GONE = Closed(ApprovalStatus.WITHDRAWN, OnExpiry.DENY, "", Answer(approved=False))


def _closed(row: Row[*tuple[Any, ...]]) -> Closed:
    return Closed(ApprovalStatus(row.status), OnExpiry(row.on_expiry), row.title, _answer(row))


def _answer(row: Row[*tuple[Any, ...]]) -> Answer:
    return Answer(bool(row.approved), row.value, row.note or "", row.answered_by or "")


def _one(
    connection: Connection, query: Select[Any], approval_id: UUID, workspace: UUID | None
) -> Approval | None:
    query = given(query.where(table.c.id == approval_id), (table.c.workspace_id, workspace))
    return read_one(connection, query, _approval)


def lock(connection: Connection, approval_id: UUID, *, workspace: UUID | None) -> Approval | None:
    """Return a question like `get`, and lock its execution or run until the transaction ends.

    If this waits for the lock, the question may have been closed since it was read; `answer` finds
    that out.
    """
    query = _SELECT.join(executions, executions.c.id == table.c.execution_id)
    found = _one(connection, query.with_for_update(of=executions), approval_id, workspace)
    if found is not None:
        return found
    query = _SELECT.join(workflow_runs, workflow_runs.c.id == table.c.run_id)
    query = query.with_for_update(of=workflow_runs, key_share=True)
    return _one(connection, query, approval_id, workspace)


_LOGGED = """
, numbered AS (
    UPDATE executions e SET event_seq = e.event_seq + counted.many, active_at = now()
    FROM (SELECT execution_id, count(*) AS many FROM given GROUP BY execution_id) AS counted
    WHERE e.id = counted.execution_id AND e.id = ANY (ARRAY(SELECT execution_id FROM given))
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

_ANSWERING = text(f"""
WITH given AS (
    UPDATE approvals
    SET status = 'answered', approved = :approved, value = CAST(:value AS json), note = :note,
        answered_at = now(), answered_by = :by
    WHERE id = :id AND status = 'open' AND expires_at > now()
      AND EXISTS (SELECT FROM executions e WHERE e.id = approvals.execution_id
                  AND e.status NOT IN ('completed', 'failed', 'cancelled'))
    RETURNING id, execution_id, approved, answered_by, answered_at
){_LOGGED}
SELECT answered_at FROM given
""")


def answer(connection: Connection, asked: Approval, given: Answer) -> Approval | None:
    """Store the answer to a question with its event; return it as it is then.

    None if it is no longer open. `lock` must have locked its execution or run in the same
    transaction.
    """
    note, by = storable_text(given.note), storable_text(given.by)
    if asked.run_id is None:
        answered_at = _answer_execution(connection, asked.id, replace(given, note=note, by=by))
    else:
        answered_at = questions.answer(
            connection, asked.id, approved=given.approved, note=note, by=by
        )
    if answered_at is None:
        return None
    return replace(
        asked,
        status=ApprovalStatus.ANSWERED,
        approved=given.approved,
        value=given.value,
        note=note,
        answered_at=answered_at,
        answered_by=by,
        expired=False,
    )


def _answer_execution(connection: Connection, approval_id: UUID, given: Answer) -> datetime | None:
    parameters = {
        "id": approval_id,
        "approved": given.approved,
        "value": None if given.value is None else storable(given.value),
        "note": given.note,
        "by": given.by,
    }
    return connection.execute(_ANSWERING, parameters).scalar_one_or_none()


_REVOKE_LINKS = text("UPDATE approvals SET links_revoked = links_revoked + 1 WHERE id = :id")


def revoke_links(connection: Connection, approval_id: UUID) -> None:
    """Count one more revocation of a question's links."""
    connection.execute(_REVOKE_LINKS, {"id": approval_id})


_HOLD_DUE = text("""
SELECT a.id, a.execution_id FROM approvals a JOIN executions e ON e.id = a.execution_id
WHERE a.status = 'open' AND a.expires_at <= now()
  AND e.status NOT IN ('completed', 'failed', 'cancelled')
ORDER BY a.expires_at
LIMIT :limit
FOR UPDATE OF e SKIP LOCKED
""")

_EXPIRE = text(f"""
WITH given AS (
    UPDATE approvals
    SET status = 'expired', approved = on_expiry = 'approve',
        value = CASE on_expiry WHEN 'approve' THEN "default" END,
        note = 'Nobody answered in time.', answered_at = now(), answered_by = 'expiry'
    WHERE id = ANY(CAST(:ids AS uuid[])) AND status = 'open'
    RETURNING id, execution_id, approved, answered_by, on_expiry, title
){_LOGGED}
SELECT id, execution_id, on_expiry, title FROM given ORDER BY id
""")


@dataclass(frozen=True, slots=True)
class Expired:
    """A question that nobody answered in time."""

    id: UUID
    execution_id: UUID
    on_expiry: OnExpiry
    title: str


def expire_due(connection: Connection, *, limit: int) -> list[Expired]:
    """Give expired questions their default answers, with their events.

    Needs a transaction. Executions are skipped that are locked, or whose session or question is.
    """
    due = connection.execute(_HOLD_DUE, {"limit": limit}).all()
    if not due:
        return []
    held = hold_rows(connection, [row.execution_id for row in due])
    rows = connection.execute(_EXPIRE, {"ids": [row.id for row in due if row.execution_id in held]})
    return [Expired(row.id, row.execution_id, OnExpiry(row.on_expiry), row.title) for row in rows]


_CLAIM = text("""
UPDATE approvals a
SET notify_count = a.notify_count + 1,
    notify_at = CASE WHEN a.notify_count + 1 < :most
                     THEN now() + make_interval(secs => least(:first * power(2, a.notify_count),
                                                              3600) * (0.75 + random() / 2)) END
FROM (
    SELECT id FROM approvals
    WHERE status = 'open' AND notified_at IS NULL AND notify_at <= now() AND expires_at > now()
    ORDER BY notify_at
    LIMIT :limit
    FOR UPDATE SKIP LOCKED
) AS due
WHERE a.id = due.id
RETURNING a.id
""")


def claim(connection: Connection, *, limit: int, first_pause: float, most: int) -> list[Approval]:
    """Claim questions whose notification is due, each for one try.

    The next try is due after `first_pause` seconds, doubled each time; there are at most `most`.
    """
    parameters = {"limit": limit, "first": first_pause, "most": most}
    ids = list(connection.execute(_CLAIM, parameters).scalars())
    found = (get(connection, approval_id, workspace=None) for approval_id in ids)
    return [approval for approval in found if approval is not None]


_MARK_NOTIFIED = text("""
UPDATE approvals SET notified_at = now(), notify_at = NULL
WHERE id = ANY(CAST(:ids AS uuid[])) AND notified_at IS NULL
""")


def mark_notified(connection: Connection, approval_ids: Sequence[UUID]) -> None:
    """Record that the notifications of these questions were delivered."""
    connection.execute(_MARK_NOTIFIED, {"ids": list(approval_ids)})


_FAILED = text("""
SELECT id FROM approvals
WHERE id = ANY(CAST(:ids AS uuid[])) AND notified_at IS NULL AND notify_at IS NULL
""")


def failed_notifications(connection: Connection, approval_ids: Sequence[UUID]) -> list[UUID]:
    """Return those of the questions whose last try has failed."""
    return list(connection.execute(_FAILED, {"ids": list(approval_ids)}).scalars())
