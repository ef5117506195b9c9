"""Schedules."""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from sqlalchemy import Connection, func, select, text, update
from sqlalchemy.dialects.postgresql import insert

from celeriac.db.paging import columns, newest, read_all, read_one, reader
from celeriac.db.schema.catalog import tasks, workflows
from celeriac.db.schema.schedules import schedules as table
from celeriac.domain.schedules.model import Schedule

_SELECT = (
    columns(Schedule, table, task_name=tasks.c.name, workflow_name=workflows.c.name)
    .select_from(table)
    .outerjoin(tasks, tasks.c.id == table.c.task_id)
    .outerjoin(workflows, workflows.c.id == table.c.workflow_id)
)
_schedule = reader(Schedule)


def add(connection: Connection, values: dict[str, object]) -> bool:
    """Insert a schedule; return False if its workspace has one with this name."""
    statement = insert(table).values(**values).on_conflict_do_nothing().returning(table.c.id)
    return connection.execute(statement).first() is not None


def get(
    connection: Connection, schedule_id: UUID, *, workspace: UUID, lock: bool = False
) -> Schedule | None:
    """Return a schedule of `workspace`, or None; `lock` locks it for a change."""
    query = _SELECT.where(table.c.id == schedule_id, table.c.workspace_id == workspace)
    return read_one(connection, query.with_for_update(of=table) if lock else query, _schedule)


def id_of_name(connection: Connection, name: str, *, workspace: UUID) -> UUID | None:
    """Return the id of the schedule that is named so in `workspace`, or None."""
    query = select(table.c.id).where(table.c.workspace_id == workspace, table.c.name == name)
    return connection.execute(query).scalar_one_or_none()


def find(
    connection: Connection, *, workspace: UUID, before: UUID | None, limit: int
) -> list[Schedule]:
    """Return up to `limit` schedules of a workspace older than `before`, the newest first."""
    query = _SELECT.where(table.c.workspace_id == workspace)
    return read_all(connection, newest(query, table.c.id, before=before, limit=limit), _schedule)


def among(connection: Connection, ids: Sequence[UUID]) -> dict[UUID, Schedule]:
    """Return those of some schedules that exist, by their ids."""
    found = read_all(connection, _SELECT.where(table.c.id.in_(ids)), _schedule)
    return {each.id: each for each in found}


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


def due(connection: Connection, now: datetime, *, limit: int) -> list[Schedule]:
    """Return schedules with a fire that is due at `now`, the longest due first."""
    query = _SELECT.where(table.c.active, table.c.due_at <= now)
    return read_all(connection, query.order_by(table.c.due_at).limit(limit), _schedule)


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


_CLAIM_UNCHANGED = text("""
SELECT id FROM schedules WHERE id = :id AND revision = :revision FOR UPDATE SKIP LOCKED
""")


def claim_unchanged(connection: Connection, schedule: Schedule) -> bool:
    """Lock a schedule until the transaction ends, also one that is paused or fires no more.

    False if it was changed or deleted, or another one has it.
    """
    parameters = {"id": schedule.id, "revision": schedule.revision}
    return connection.execute(_CLAIM_UNCHANGED, parameters).first() is not None


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
