"""Reads executions: single ones, lists, statuses, and counts of queued rows."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import (
    Connection,
    Double,
    Select,
    and_,
    case,
    cast,
    exists,
    func,
    literal,
    null,
    or_,
    select,
    text,
)

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
from celeriac.db.schema import agent_versions, approvals, events, tasks
from celeriac.db.schema import executions as table
from celeriac.domain.approvals import ApprovalStatus, QuestionKind
from celeriac.domain.executions.events import EventType
from celeriac.domain.executions.model import (
    BULKY,
    Execution,
    ExecutionFilter,
    run_options,
)
from celeriac.domain.executions.states import Status, WaitingFor
from celeriac.kit.ids import uuid7_at

_ASKS = exists().where(
    approvals.c.execution_id == table.c.id, approvals.c.status == ApprovalStatus.OPEN
)
_ASKS_IN_PLACE = {
    WaitingFor.APPROVAL: _ASKS.where(approvals.c.kind != QuestionKind.BUDGET),
    WaitingFor.BUDGET: _ASKS.where(approvals.c.kind == QuestionKind.BUDGET),
}
"""What a running execution waits for in place: questions to a person."""

_PARKED_AT = (
    select(events.c.at)
    .where(events.c.execution_id == table.c.id, events.c.type == EventType.WAITING)
    .order_by(events.c.seq.desc())
    .limit(1)
    .scalar_subquery()
)
_ASKED_AT = (
    select(func.min(approvals.c.created_at))
    .where(approvals.c.execution_id == table.c.id, approvals.c.status == ApprovalStatus.OPEN)
    .scalar_subquery()
)

_COMPUTED = {
    "waiting_for": case(
        *(
            (and_(table.c.status == Status.RUNNING, asks), literal(reason.value))
            for reason, asks in _ASKS_IN_PLACE.items()
        ),
        else_=table.c.waiting_for,
    ),
    "waiting_since": case(
        (
            and_(
                table.c.status.in_((Status.PENDING, Status.QUEUED)),
                table.c.available_at <= func.now(),
            ),
            table.c.available_at,
        ),
        (table.c.status == Status.WAITING, _PARKED_AT),
        (table.c.status == Status.RUNNING, _ASKED_AT),
    ),
    "task_name": tasks.c.name,
    "duration_seconds": cast(
        func.extract("epoch", table.c.completed_at - table.c.started_at), Double
    ),
    # the rest of the details may be large; lists omit it
    "error_type": func.left(table.c.error_details["type"].astext, 200),
    "progress_note": func.left(table.c.progress_note, 2_000),
    # the last event of its log says so
    "truncated": exists().where(
        table.c.status == Status.COMPLETED,
        events.c.execution_id == table.c.id,
        events.c.seq == table.c.event_seq,
        events.c.data["truncated"].as_boolean(),
    ),
}


def _selected(include: Collection[str]) -> Select[Any]:
    left_out = {name: null() for name in BULKY if name not in include}
    query = columns(Execution, table, **_COMPUTED, **left_out)
    return query.join_from(table, tasks, tasks.c.id == table.c.task_id)


_SELECT = _selected(BULKY)
_execution = reader(Execution, options=run_options)

_OPEN = tuple(status for status in Status if not status.terminal)

_CLOCK_SLACK = timedelta(hours=1)
"""How far the clock of an id may differ from the database's."""


def get(connection: Connection, execution_id: UUID, *, owner: UUID | None) -> Execution | None:
    """Return an execution, or None where there is none or it isn't `owner`'s (None: anybody's)."""
    query = given(_SELECT.where(table.c.id == execution_id), (table.c.owner_id, owner))
    return read_one(connection, query, _execution)


def of_celery_task(
    connection: Connection, celery_task_id: str, *, owner: UUID | None
) -> Execution | None:
    """Return the execution that was last queued as this Celery task, or None."""
    query = _SELECT.where(table.c.celery_task_id == celery_task_id)
    query = given(query, (table.c.owner_id, owner))
    # the index isn't unique: rows of earlier releases share ids
    return read_one(connection, query.order_by(table.c.id.desc()).limit(1), _execution)


def cancel_requested(connection: Connection, execution_ids: Sequence[UUID]) -> list[UUID]:
    """Return those of the executions whose cancellation is requested."""
    query = select(table.c.id).where(
        table.c.id.in_(execution_ids), table.c.cancel_requested_at.is_not(None)
    )
    return list(connection.execute(query).scalars())


def statuses(
    connection: Connection, execution_ids: Sequence[UUID], *, owner: UUID | None
) -> dict[UUID, Status]:
    """Return the status of each execution that exists and is `owner`'s (None: anybody's)."""
    query = select(table.c.id, table.c.status).where(table.c.id.in_(execution_ids))
    query = given(query, (table.c.owner_id, owner))
    return {row.id: Status(row.status) for row in connection.execute(query)}


_POSITIONS = text("SELECT id, event_seq FROM executions WHERE id = ANY(CAST(:ids AS uuid[]))")


def positions(connection: Connection, execution_ids: Sequence[UUID]) -> dict[UUID, int]:
    """Return the number of the latest event of each execution that exists."""
    rows = connection.execute(_POSITIONS, {"ids": list(execution_ids)})
    return {row.id: row.event_seq for row in rows}


def of_batch(
    connection: Connection, batch_id: UUID, *, owner: UUID | None
) -> dict[UUID, UUID | None]:
    """Return the ids of a batch in the order in which they were given, each with its origin's."""
    query = select(table.c.id, table.c.origin_id).where(table.c.batch_id == batch_id)
    rows = connection.execute(given(query, (table.c.owner_id, owner)).order_by(table.c.id))
    return {row.id: row.origin_id for row in rows}


def find_ids(
    connection: Connection, wanted: ExecutionFilter, *, before: UUID | None, limit: int
) -> list[UUID]:
    """Return the ids of what `find` returns."""
    query = _filtered(select(table.c.id), wanted)
    page = newest(query, table.c.id, before=before, limit=limit)
    return list(connection.execute(page).scalars())


def count(
    connection: Connection, wanted: ExecutionFilter, *, before: UUID | None, most: int
) -> int:
    """Return how many executions with smaller ids than `before` there are; at most `most`."""
    # in the order of the list: so the planner reads by the index that serves the list
    query = _filtered(select(table.c.id), wanted)
    found = newest(query, table.c.id, before=before, limit=most).subquery()
    return int(connection.execute(select(func.count()).select_from(found)).scalar_one())


def find(
    connection: Connection,
    wanted: ExecutionFilter,
    *,
    before: UUID | None,
    limit: int,
    include: Collection[str] = (),
) -> Rows[Execution]:
    """Return up to `limit` executions with smaller ids than `before`, the newest first.

    Of what is in `BULKY` only those named by `include` are read; the others are None.
    """
    query = _filtered(_selected(include), wanted)
    query = newest(query, table.c.id, before=before, limit=limit)
    if not include:
        return Rows(read_all(connection, query, _execution))
    return read_bounded(connection, query, _execution, bulky=[table.c[name] for name in include])


_EQUAL = (
    "owner_id",
    "task_id",
    "batch_id",
    "origin_id",
    "session_id",
    "trigger_type",
    "error_code",
)


def _filtered(query: Select[Any], wanted: ExecutionFilter) -> Select[Any]:
    query = matching(query, table, wanted, *_EQUAL)
    if wanted.ids:
        query = query.where(table.c.id.in_(wanted.ids))
    if wanted.agent_id is not None:
        versions = select(agent_versions.c.id).where(agent_versions.c.agent_id == wanted.agent_id)
        query = query.where(table.c.agent_version_id.in_(versions))
    query = _standing(query, wanted)
    # ids are ordered by time: the primary key bounds the scan
    if wanted.created_after is not None:
        query = query.where(
            table.c.created_at >= wanted.created_after,
            table.c.id >= uuid7_at(wanted.created_after - _CLOCK_SLACK),
        )
    if wanted.created_before is not None:
        query = query.where(
            table.c.created_at < wanted.created_before,
            table.c.id < uuid7_at(wanted.created_before + _CLOCK_SLACK),
        )
    return query


def _standing(query: Select[Any], wanted: ExecutionFilter) -> Select[Any]:
    statuses = wanted.statuses
    if wanted.waiting_for is not None:
        waits = table.c.waiting_for == wanted.waiting_for
        asks = _ASKS_IN_PLACE.get(wanted.waiting_for)
        if asks is not None:
            waits = or_(waits, and_(table.c.status == Status.RUNNING, asks))
        query = query.where(waits)
        statuses = statuses or (Status.WAITING, Status.RUNNING)
    if wanted.cancellable:
        query = query.where(table.c.cancel_requested_at.is_(None))
        statuses = statuses or _OPEN
    if statuses:
        # written out, not bound, and as the index says it: so the planner sees that it fits
        values = [literal(status.value, literal_execute=True) for status in statuses]
        query = query.where(table.c.status.in_(values))
        if not any(status.terminal for status in statuses):
            query = query.where(table.c.completed_at.is_(None))
    return query


_WAITING = text("""
SELECT queue, count(*), count(*) FILTER (
    WHERE queued_at < now() - make_interval(secs => :older_than))
FROM executions
WHERE status = 'queued' AND queued_at IS NOT NULL
GROUP BY queue
HAVING bool_or(queued_at < now() - make_interval(secs => :older_than))
""")


@dataclass(frozen=True, slots=True)
class QueuedCount:
    """How many rows of a queue are `queued`, and how many of them for a long time."""

    all: int
    old: int


def queued_counts(connection: Connection, *, older_than: float) -> dict[str, QueuedCount]:
    """Return the queues with rows that are `queued` for over `older_than` seconds."""
    rows = connection.execute(_WAITING, {"older_than": older_than})
    return {row[0]: QueuedCount(row[1], row[2]) for row in rows}


_COUNTS = text("""
SELECT queue, count(*) FROM executions
WHERE status = 'pending' AND held IS NULL AND available_at <= now()
   OR status = 'pending' AND held = 'time' AND available_at <= now()
   OR status = 'queued' AND queued_at IS NOT NULL
GROUP BY queue ORDER BY queue
""")


def waiting_counts(connection: Connection) -> dict[str, int]:
    """Return the number of executions that wait for a worker, by queue.

    Those that are due and not yet released are among them.
    """
    return {row[0]: int(row[1]) for row in connection.execute(_COUNTS)}
