"""Schedules and their fires."""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from sqlalchemy import Connection, TextClause, func, select, text, update
from sqlalchemy.dialects.postgresql import insert

from celeriac.db import spans
from celeriac.db.paging import columns, given, newest, read_all, read_one, reader
from celeriac.db.schema.schedules import schedule_fires as fires
from celeriac.db.schema.schedules import schedules as table
from celeriac.domain.executions.states import Status
from celeriac.domain.schedules.model import Fire, FireKind, FireStatus, Schedule, SkipReason
from celeriac.domain.workflows.states import RunStatus
from celeriac.kit.ids import uuid7

_SCHEDULE, _FIRE = columns(Schedule, table), columns(Fire, fires)
_schedule, _fire = reader(Schedule), reader(Fire)

_OPEN_AT_ONCE = 1_000


def add(connection: Connection, values: dict[str, object]) -> bool:
    """Insert a schedule; return False if its workspace has one with this name."""
    statement = insert(table).values(**values).on_conflict_do_nothing().returning(table.c.id)
    return connection.execute(statement).first() is not None


def get(
    connection: Connection, schedule_id: UUID, *, workspace: UUID, lock: bool = False
) -> Schedule | None:
    """Return a schedule of `workspace`, or None; `lock` locks it for a change."""
    query = _SCHEDULE.where(table.c.id == schedule_id, table.c.workspace_id == workspace)
    return read_one(connection, query.with_for_update() if lock else query, _schedule)


def id_of_name(connection: Connection, name: str, *, workspace: UUID) -> UUID | None:
    """Return the id of the schedule that is named so in `workspace`, or None."""
    query = select(table.c.id).where(table.c.workspace_id == workspace, table.c.name == name)
    return connection.execute(query).scalar_one_or_none()


def find(
    connection: Connection, *, workspace: UUID, before: UUID | None, limit: int
) -> list[Schedule]:
    """Return up to `limit` schedules of a workspace older than `before`, the newest first."""
    query = _SCHEDULE.where(table.c.workspace_id == workspace)
    return read_all(connection, newest(query, table.c.id, before=before, limit=limit), _schedule)


def count(connection: Connection, workspace_id: UUID) -> int:
    """Return how many schedules a workspace has."""
    query = select(func.count()).where(table.c.workspace_id == workspace_id)
    return int(connection.execute(query).scalar_one())


def change(connection: Connection, schedule_id: UUID, values: dict[str, object]) -> None:
    """Change a schedule, which the caller has locked."""
    changed = update(table).where(table.c.id == schedule_id)
    connection.execute(
        changed.values(**values, revision=table.c.revision + 1, updated_at=func.now())
    )


def delete(connection: Connection, schedule_id: UUID) -> None:
    """Delete a schedule; its fires stay until retention removes them."""
    connection.execute(table.delete().where(table.c.id == schedule_id))


def due(connection: Connection, *, limit: int) -> list[Schedule]:
    """Return schedules with a fire that is due, the longest due first."""
    query = (
        _SCHEDULE.where(table.c.active, table.c.due_at <= func.now())
        .order_by(table.c.due_at)
        .limit(limit)
    )
    return read_all(connection, query, _schedule)


_CLAIM = text("""
SELECT id FROM schedules
WHERE id = :id AND active AND revision = :revision AND next_fire_at = :next_fire_at
FOR UPDATE SKIP LOCKED
""")


def claim(connection: Connection, schedule: Schedule) -> bool:
    """Lock a schedule until the transaction ends, unless it was changed or another one has it."""
    parameters = {
        "id": schedule.id,
        "revision": schedule.revision,
        "next_fire_at": schedule.next_fire_at,
    }
    return connection.execute(_CLAIM, parameters).first() is not None


def go_on(
    connection: Connection,
    schedule_id: UUID,
    *,
    next_fire_at: datetime | None,
    due_at: datetime | None,
) -> None:
    """Set the next fire of a schedule that the caller has claimed."""
    connection.execute(
        update(table)
        .where(table.c.id == schedule_id)
        .values(next_fire_at=next_fire_at, due_at=due_at)
    )


def add_fire(
    connection: Connection,
    schedule: Schedule,
    scheduled_at: datetime,
    *,
    kind: FireKind = FireKind.SCHEDULED,
    reason: SkipReason | None = None,
    error: str | None = None,
    number: int = 1,
    last_at: datetime | None = None,
    execution_id: UUID | None = None,
    run_id: UUID | None = None,
) -> UUID | None:
    """Insert a fire, with a `reason` one that has not happened; return its id.

    None if the schedule has fired for this time before: nothing is inserted then.
    """
    status = FireStatus.STARTED if reason is None else FireStatus.SKIPPED
    statement = (
        insert(fires)
        .values(
            id=uuid7(),
            workspace_id=schedule.workspace_id,
            schedule_id=schedule.id,
            kind=kind.value,
            scheduled_at=scheduled_at,
            status=status.value,
            reason=None if reason is None else reason.value,
            error=error,
            count=number,
            last_at=last_at,
            execution_id=execution_id,
            run_id=run_id,
            open=status is FireStatus.STARTED,
        )
        .on_conflict_do_nothing()
        .returning(fires.c.id)
    )
    found: UUID | None = connection.execute(statement).scalar_one_or_none()
    return found


def fire(connection: Connection, fire_id: UUID) -> Fire:
    """Return a fire that exists."""
    return _fire(connection.execute(_FIRE.where(fires.c.id == fire_id)).one())


def find_fires(
    connection: Connection,
    *,
    schedule_id: UUID,
    status: FireStatus | None,
    before: UUID | None,
    limit: int,
) -> list[Fire]:
    """Return up to `limit` fires of a schedule older than `before`, the newest first."""
    query = given(_FIRE.where(fires.c.schedule_id == schedule_id), (fires.c.status, status))
    return read_all(connection, newest(query, fires.c.id, before=before, limit=limit), _fire)


_ENDED = ", ".join(f"'{each.value}'" for each in Status if each.terminal)
_RUN_ENDED = ", ".join(f"'{each.value}'" for each in RunStatus if each.terminal)

_LIVE_EXECUTIONS = text(
    f"SELECT id FROM executions WHERE {spans.given('id')} AND status NOT IN ({_ENDED})"  # noqa: S608
)
_LIVE_RUNS = text(
    "SELECT id FROM workflow_runs"  # noqa: S608
    f" WHERE id = ANY (CAST(:ids AS uuid[])) AND status NOT IN ({_RUN_ENDED})"
)


def running(connection: Connection, schedule_id: UUID) -> int:
    """Return how many of the oldest 1,000 that a schedule has started have not ended.

    Notes which have, so that they are not looked at again.
    """
    query = (
        select(fires.c.id, fires.c.execution_id, fires.c.run_id)
        .where(fires.c.schedule_id == schedule_id, fires.c.open)
        .order_by(fires.c.id)
        .limit(_OPEN_AT_ONCE)
    )
    found = connection.execute(query).all()
    live = _live(connection, [row[1] for row in found if row[1] is not None], _LIVE_EXECUTIONS)
    live |= _live(connection, [row[2] for row in found if row[2] is not None], _LIVE_RUNS)
    ended = [row[0] for row in found if row[1] not in live and row[2] not in live]
    if ended:
        connection.execute(update(fires).where(fires.c.id.in_(ended)).values(open=False))
    return len(found) - len(ended)


def _live(connection: Connection, ids: Sequence[UUID], query: TextClause) -> set[UUID]:
    if not ids:
        return set()
    return set(connection.execute(query, spans.of(ids)).scalars())
