"""Approvals: questions, answers, and notices about them."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Row, and_, func, or_, select, text
from sqlalchemy.exc import IntegrityError

from celeriac.db.executions.park import (
    FRESH_COUNT,
    INSERT_QUESTIONS,
    NEW_QUESTIONS,
    question_columns,
)
from celeriac.db.paging import Rows, read_bounded
from celeriac.db.schema import approvals as table
from celeriac.db.schema import tasks
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
    "expired": or_(
        table.c.status == ApprovalStatus.EXPIRED,
        and_(table.c.status == ApprovalStatus.OPEN, table.c.expires_at <= func.now()),
    ),
}
"""What is no column of the table."""

_SELECT = select(
    *(
        (_OTHERS[field.name] if field.name in _OTHERS else table.c[field.name]).label(field.name)
        for field in fields(Approval)
    )
).join_from(table, tasks, tasks.c.id == table.c.task_id)
_BULKY = (table.c.title, table.c.arguments, table.c.schema, table.c.default, table.c.value)
_ANSWER = (table.c.approved, table.c.value, table.c.note, table.c.answered_by)

_ASK = text(
    "WITH "  # noqa: S608 - put together from constants
    + NEW_QUESTIONS
    + """
, done AS (
    UPDATE executions
    SET event_seq = event_seq + """
    + FRESH_COUNT
    + """
    WHERE id = :id AND attempt = :attempt AND lease_token = :token AND lease_until IS NOT NULL
    RETURNING id, attempt, task_id, owner_id, true AS asks, event_seq - """
    + FRESH_COUNT
    + """ AS first_number
)"""
    + INSERT_QUESTIONS
    + """
SELECT EXISTS (SELECT FROM fresh) AS fresh,
       coalesce((SELECT id FROM fresh),
                (SELECT a.id FROM approvals a
                 WHERE a.execution_id = :id AND a.key = (CAST(:keys AS text[]))[1])) AS id
FROM done
"""
)


@dataclass(frozen=True, slots=True)
class Asked:
    """A question in the database; `fresh` where it was not there before."""

    id: UUID
    fresh: bool


def ask(connection: Connection, lease: Lease, question: Question) -> Asked | None:
    """Store a question with its event, unless it is known; None for a lost lease.

    One statement, for a connection without a transaction: where the attempt asks the same at the
    same moment, it is repeated.
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
        row = connection.execute(_ASK, parameters).one_or_none()  # by now it is known
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


_OPEN_ABOUT_BUDGET = text("""
SELECT id, execution_id FROM approvals
WHERE kind = 'budget' AND status = 'open' AND expires_at > now()
  AND starts_with(key, :prefix)
ORDER BY execution_id
LIMIT :limit
""")


def open_about_budget(
    connection: Connection, key_prefix: str, *, limit: int
) -> list[tuple[UUID, UUID]]:
    """Return open questions about a budget whose keys begin so: their ids and executions."""
    rows = connection.execute(_OPEN_ABOUT_BUDGET, {"prefix": key_prefix, "limit": limit})
    return [(row.id, row.execution_id) for row in rows]


@dataclass(frozen=True, slots=True)
class Closed:
    """A question that is no longer open, and its answer if it has one."""

    status: ApprovalStatus
    on_expiry: OnExpiry
    title: str
    answer: Answer


def closed(connection: Connection, approval_ids: Sequence[UUID]) -> dict[UUID, Closed]:
    """Return those of the questions that are no longer open; a deleted one is withdrawn."""
    query = select(table.c.id, table.c.status, table.c.on_expiry, table.c.title, *_ANSWER).where(
        table.c.id.in_(approval_ids)
    )
    found = {row.id: row for row in connection.execute(query)}
    return {
        approval_id: _closed(found[approval_id]) if approval_id in found else _GONE
        for approval_id in approval_ids
        if approval_id not in found or found[approval_id].status != ApprovalStatus.OPEN
    }


def get(connection: Connection, approval_id: UUID, *, owner: UUID | None) -> Approval | None:
    """Return a question, or None where there is none or it isn't `owner`'s (None: anybody's)."""
    query = _SELECT.where(table.c.id == approval_id)
    if owner is not None:
        query = query.where(table.c.owner_id == owner)
    row = connection.execute(query).one_or_none()
    return None if row is None else _approval(row)


def find(
    connection: Connection, wanted: ApprovalFilter, *, before: UUID | None, limit: int
) -> Rows[Approval]:
    """Return up to `limit` questions with smaller ids than `before`, the newest first."""
    query = _SELECT.order_by(table.c.id.desc()).limit(limit)
    if wanted.owner_id is not None:
        query = query.where(table.c.owner_id == wanted.owner_id)
    if wanted.execution_id is not None:
        query = query.where(table.c.execution_id == wanted.execution_id)
    if list(wanted.statuses) == [ApprovalStatus.OPEN]:
        query = query.where(text("approvals.status = 'open'"))  # as its index says it
    elif wanted.statuses:
        query = query.where(table.c.status.in_(wanted.statuses))
    if before is not None:
        query = query.where(table.c.id < before)
    found = read_bounded(connection, query, bulky=_BULKY)
    return Rows(list(map(_approval, found.items)), more=found.more)


_GONE = Closed(ApprovalStatus.WITHDRAWN, OnExpiry.DENY, "", Answer(approved=False))


def _closed(row: Row[*tuple[Any, ...]]) -> Closed:
    return Closed(ApprovalStatus(row.status), OnExpiry(row.on_expiry), row.title, _answer(row))


def _answer(row: Row[*tuple[Any, ...]]) -> Answer:
    return Answer(bool(row.approved), row.value, row.note or "", row.answered_by or "")


def _approval(row: Row[*tuple[Any, ...]]) -> Approval:
    values = {field.name: getattr(row, field.name) for field in fields(Approval)}
    values["kind"] = QuestionKind(values["kind"])
    values["status"] = ApprovalStatus(values["status"])
    values["on_expiry"] = OnExpiry(values["on_expiry"])
    return Approval(**values)


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
    """Take questions that are to be told of now, each for one try; return them.

    The next try is due after `first_pause` seconds, doubled with each, and there are at most
    `most`. Two statements.
    """
    parameters = {"limit": limit, "first": first_pause, "most": most}
    ids = list(connection.execute(_CLAIM, parameters).scalars())
    found = (get(connection, approval_id, owner=None) for approval_id in ids)
    return [approval for approval in found if approval is not None]


_DONE = text("""
UPDATE approvals SET notified_at = now(), notify_at = NULL
WHERE id = ANY(CAST(:ids AS uuid[])) AND notified_at IS NULL
""")


def done(connection: Connection, approval_ids: Sequence[UUID]) -> None:
    """Write that people were told of these questions."""
    connection.execute(_DONE, {"ids": list(approval_ids)})


_GIVEN_UP = text("""
SELECT id FROM approvals
WHERE id = ANY(CAST(:ids AS uuid[])) AND notified_at IS NULL AND notify_at IS NULL
""")


def given_up(connection: Connection, approval_ids: Sequence[UUID]) -> list[UUID]:
    """Return those for which no further try follows."""
    return list(connection.execute(_GIVEN_UP, {"ids": list(approval_ids)}).scalars())
