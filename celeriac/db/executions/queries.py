"""Reads executions: single ones, lists, statuses, and counts of queued rows."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import (
    ColumnElement,
    Connection,
    Double,
    FromClause,
    Select,
    Table,
    and_,
    bindparam,
    case,
    cast,
    func,
    literal,
    literal_column,
    null,
    or_,
    select,
    text,
    true,
)
from sqlalchemy.sql.selectable import LateralFromClause

from celeriac.db import spans
from celeriac.db.executions.pages import (
    ACTIVE_AT,
    ASKS_IN_PLACE,
    IS_SILENT,
    OPEN,
    any_row,
    filtered,
    page_of,
    statuses_of,
)
from celeriac.db.paging import (
    Rows,
    columns,
    given,
    newest,
    read_all,
    read_bounded,
    read_one,
    reader,
    written_out,
)
from celeriac.db.schema.accounts import workspaces
from celeriac.db.schema.approvals import approvals
from celeriac.db.schema.catalog import tasks
from celeriac.db.schema.executions import events, execution_inputs, execution_results
from celeriac.db.schema.executions import executions as table
from celeriac.db.schema.pauses import pauses
from celeriac.db.schema.workflows import step_runs
from celeriac.domain.approvals import ApprovalStatus
from celeriac.domain.executions.events import EventType
from celeriac.domain.executions.model import BULKY, Execution, ExecutionFilter
from celeriac.domain.executions.options import run_options
from celeriac.domain.executions.pauses import PauseScope
from celeriac.domain.executions.states import Held, Status

_ASKED_AT = (
    select(func.min(approvals.c.created_at))
    .where(approvals.c.execution_id == table.c.id, approvals.c.status == ApprovalStatus.OPEN)
    .scalar_subquery()
)

_IS_PAUSED = any_row(
    pauses,
    or_(
        pauses.c.scope == PauseScope.SYSTEM,
        pauses.c.queue == table.c.queue,
        pauses.c.task_id == table.c.task_id,
        pauses.c.workflow_id == table.c.workflow_id,
        and_(pauses.c.scope == PauseScope.WORKSPACE, pauses.c.workspace_id == table.c.workspace_id),
    ),
)

_COMPUTED = {
    # rows are marked only where they would be in the way of others (`paused`)
    "held": case(
        (
            and_(table.c.status == Status.PENDING, table.c.held.is_(None), _IS_PAUSED),
            literal(Held.PAUSED.value),
        ),
        else_=table.c.held,
    ),
    "waiting_for": case(
        *(
            (and_(table.c.status == Status.RUNNING, asks), literal(reason.value))
            for reason, asks in ASKS_IN_PLACE.items()
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
        (table.c.status == Status.WAITING, table.c.parked_at),
        (table.c.status == Status.RUNNING, _ASKED_AT),
    ),
    "active_at": case((table.c.status == Status.RUNNING, ACTIVE_AT)),
    "silent": IS_SILENT,
    "task_name": tasks.c.name,
    "duration_seconds": cast(
        func.extract("epoch", table.c.completed_at - table.c.started_at), Double
    ),
    "progress_note": func.left(table.c.progress_note, 2_000),
    "workflow_run_id": table.c.run_id,
    "step": select(step_runs.c.step)
    .where(step_runs.c.run_id == table.c.run_id, step_runs.c.step_no == table.c.step_no)
    .correlate(table)
    .scalar_subquery(),
    "item": table.c.item_no,
}


def beside(rows: Table, *conditions: ColumnElement[bool]) -> LateralFromClause:
    """Return the execution's row of a table; looked for each time, never by reading all rows."""
    its_own = select(rows).where(rows.c.execution_id == table.c.id, *conditions).correlate(table)
    return its_own.offset(0).lateral(f"its_{rows.name}")


_INPUTS = beside(execution_inputs)
_RESULTS = beside(execution_results)


def _stored(inputs: FromClause, results: FromClause) -> dict[str, ColumnElement[Any]]:
    """Return where the fields in `BULKY` are."""
    return {
        "variables": inputs.c.variables,
        "result": results.c.result,
        "error_details": results.c.error_details,
    }


_STORED = _stored(_INPUTS, _RESULTS)


def _selected(
    include: Collection[str], inputs: FromClause = _INPUTS, results: FromClause = _RESULTS
) -> Select[Any]:
    variables = func.coalesce(inputs.c.variables, text("'{}'::json"))
    shown = _stored(inputs, results) | {"variables": variables}
    bulky = {name: shown[name] if name in include else null() for name in BULKY}
    query = columns(Execution, table, **_COMPUTED, **bulky)
    query = query.join_from(table, tasks, tasks.c.id == table.c.task_id)
    for rows in (inputs, results):
        if any(name in rows.c for name in include):
            query = query.outerjoin(rows, true())
    return query


_SELECT = _selected(BULKY)
_ONE = bindparam("one", type_=table.c.id.type)
_SELECT_ONE = _selected(
    BULKY,
    # so the other partitions of these tables are left out from the start, too
    *(beside(rows, rows.c.execution_id == _ONE) for rows in (execution_inputs, execution_results)),
).where(table.c.id == _ONE)
_execution = reader(Execution, options=run_options, labels=lambda stored: stored or {})

_LATER_MESSAGE = 8
"""The version of the UUIDs that `CELERY_TASK_ID` makes of an execution's id."""
_EVENT_BITS = 0xFFFF


def get(connection: Connection, execution_id: UUID, *, workspace: UUID | None) -> Execution | None:
    """Return an execution of `workspace` (None: of any), or None."""
    query = given(_SELECT_ONE.params(one=execution_id), (table.c.workspace_id, workspace))
    return read_one(connection, query, _execution)


def of_celery_task(connection: Connection, celery_task_id: UUID) -> Execution | None:
    """Return the execution that was queued as this Celery task, or None."""
    first, last, event = _executions_of(celery_task_id)
    was_queued = any_row(
        events,
        events.c.execution_id == table.c.id,
        events.c.seq == event,
        events.c.type == EventType.QUEUED,
    )
    is_its = or_(table.c.id == celery_task_id, was_queued)
    query = _SELECT.where(table.c.id.between(first, last), is_its)
    return read_one(connection, query.limit(1), _execution)


def _executions_of(celery_task_id: UUID) -> tuple[UUID, UUID, int]:
    """Return the smallest and largest id that the task's execution may have, and its event."""
    if celery_task_id.version != _LATER_MESSAGE:
        return celery_task_id, celery_task_id, 0
    event = celery_task_id.int & _EVENT_BITS
    first = celery_task_id.int - event - ((_LATER_MESSAGE - 7) << 76)
    return UUID(int=first), UUID(int=first | _EVENT_BITS), event


def cancel_requested(connection: Connection, execution_ids: Sequence[UUID]) -> list[UUID]:
    """Return those of the executions whose cancellation is requested."""
    query = select(table.c.id).where(
        table.c.id.in_(execution_ids), table.c.cancel_requested_at.is_not(None)
    )
    return list(connection.execute(query).scalars())


def statuses(
    connection: Connection, execution_ids: Sequence[UUID], *, workspace: UUID | None
) -> dict[UUID, Status]:
    """Return the status of each execution that exists in `workspace` (None: in any)."""
    query = select(table.c.id, table.c.status).where(table.c.id.in_(execution_ids))
    query = given(query, (table.c.workspace_id, workspace))
    return {row.id: Status(row.status) for row in connection.execute(query)}


_POSITIONS = text(f"""
SELECT id, event_seq FROM executions WHERE {spans.given("id")}
UNION ALL
SELECT id, event_seq FROM workflow_runs WHERE id = ANY(CAST(:ids AS uuid[]))
""")


def positions(connection: Connection, execution_ids: Sequence[UUID]) -> dict[UUID, int]:
    """Return the number of the latest event of each execution, or run, that exists."""
    rows = connection.execute(_POSITIONS, spans.of(execution_ids))
    return {row.id: row.event_seq for row in rows}


def of_batch(connection: Connection, batch_id: UUID, *, workspace: UUID) -> dict[UUID, UUID | None]:
    """Return the ids of a batch in the order in which they were given, each with its origin's."""
    query = select(table.c.id, table.c.origin_id).where(
        table.c.batch_id == batch_id, table.c.workspace_id == workspace
    )
    rows = connection.execute(query.order_by(table.c.id))
    return {row.id: row.origin_id for row in rows}


def find_ids(
    connection: Connection, wanted: ExecutionFilter, *, before: UUID | None, limit: int
) -> list[UUID]:
    """Return the ids of what `find` returns."""
    return list(connection.execute(page_of(wanted, before=before, limit=limit)).scalars())


def end_of(
    connection: Connection, wanted: ExecutionFilter, *, before: UUID | None, limit: int
) -> UUID | None:
    """Return the id of the last of `limit` executions; None if no more than these match."""
    found = page_of(wanted, before=before, limit=limit + 1).subquery()
    key = found.c[0]
    query = select(key).order_by(key.desc()).offset(limit - 1).limit(2)
    ends = list(connection.execute(query).scalars())
    return ends[0] if len(ends) > 1 else None


def cancellable_of(connection: Connection, *, owner_id: UUID, limit: int) -> dict[UUID, list[UUID]]:
    """Return the ids of up to `limit` cancellable executions that a user made, by workspace."""
    every = func.array(select(workspaces.c.id).scalar_subquery())
    query = select(table.c.workspace_id, table.c.id).where(
        # as the index of a workspace's statuses says it
        table.c.workspace_id == func.any(every),
        table.c.max_crashes != literal_column("-1"),
        table.c.status.in_([written_out(status, table.c.status) for status in OPEN]),
        table.c.cancel_requested_at.is_(None),
        table.c.owner_id == owner_id,
    )
    found: dict[UUID, list[UUID]] = {}
    for row in connection.execute(query.limit(limit)):
        found.setdefault(row.workspace_id, []).append(row.id)
    return found


def count(
    connection: Connection, wanted: ExecutionFilter, *, before: UUID | None, most: int
) -> int:
    """Return how many executions with smaller ids than `before` there are; at most `most`."""
    # in the order of the list: so the planner reads by the index that serves the list
    found = page_of(wanted, before=before, limit=most).subquery()
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
    query = _selected(include)
    if len(statuses_of(wanted)) > 1 or wanted.labels:
        ids = func.array(page_of(wanted, before=before, limit=limit).scalar_subquery())
        query = query.where(table.c.id == func.any(ids)).order_by(table.c.id.desc()).limit(limit)
    else:
        query = newest(filtered(query, wanted), table.c.id, before=before, limit=limit)
    if not include:
        return Rows(read_all(connection, query, _execution))
    return read_bounded(connection, query, _execution, bulky=[_STORED[name] for name in include])


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
