"""Questions of agents: asked by running attempts, read by them and by people."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Row, and_, func, or_, select, text
from sqlalchemy.exc import IntegrityError

from celeriac.db.models import approvals as table
from celeriac.db.models import tasks
from celeriac.db.paging import Rows, read_bounded
from celeriac.db.transitions.asking import ASKED, FRESH, FRESH_COUNT, question_columns
from celeriac.domain.agent.tools import OnExpiry
from celeriac.domain.approval import Answer, Approval, ApprovalStatus, Question, QuestionKind
from celeriac.domain.execution import Lease

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
    + FRESH
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
    + ASKED
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


@dataclass(frozen=True, slots=True, kw_only=True)
class ApprovalFilter:
    """Which questions to list; empty and None mean: all."""

    owner_id: UUID | None = None
    statuses: Sequence[ApprovalStatus] = ()
    execution_id: UUID | None = None


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
