"""Tasks and their versions."""

from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Row, func, select, update
from sqlalchemy.dialects.postgresql import insert

from celeriac.db.paging import Rows, columns, given, newest, read_bounded, read_one, value_of
from celeriac.db.schema import agents
from celeriac.db.schema import task_versions as versions
from celeriac.db.schema import tasks as table
from celeriac.domain.tasks import Task, TaskSpec
from celeriac.kit.ids import uuid7

_SELECT = (
    columns(Task, table, agent_name=agents.c.name, version=versions.c.version, spec=versions.c.spec)
    .join_from(table, versions, versions.c.id == table.c.current_version_id)
    .join(agents, agents.c.id == table.c.agent_id)
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskChange:
    """Changes of a task; None keeps the stored value."""

    description: str | None = None
    active: bool | None = None
    agent_id: UUID | None = None
    spec: TaskSpec | None = None


EXISTS = table.c.deleted_at.is_(None)
"""The condition of rows that are not deleted."""


def by_id(
    connection: Connection, task_id: UUID, *, owner: UUID | None, lock: bool = False
) -> Task | None:
    """Return a task of `owner` (None: of anyone) or None; `lock` locks its row."""
    query = given(_SELECT.where(table.c.id == task_id, EXISTS), (table.c.owner_id, owner))
    return read_one(connection, query.with_for_update(of=table) if lock else query, _task)


def id_of_name(connection: Connection, name: str, *, owner: UUID) -> UUID | None:
    """Return the id of the task of `owner` with this name, or None."""
    query = select(table.c.id).where(table.c.owner_id == owner, table.c.name == name, EXISTS)
    return connection.execute(query).scalar_one_or_none()


def find(
    connection: Connection,
    *,
    owner: UUID | None,
    active: bool | None,
    before: UUID | None,
    limit: int,
) -> Rows[Task]:
    """Return up to `limit` tasks with smaller ids than `before`, the newest first."""
    query = given(_SELECT.where(EXISTS), (table.c.owner_id, owner), (table.c.active, active))
    page = newest(query, table.c.id, before=before, limit=limit)
    found = read_bounded(connection, page, bulky=[versions.c.spec])
    return Rows(list(map(_task, found.items)), more=found.more)


def add(
    connection: Connection,
    *,
    owner: UUID,
    agent_id: UUID,
    name: str,
    description: str,
    active: bool,
    spec: TaskSpec,
) -> UUID | None:
    """Insert a task at version 1 and return its id, or None if the name is taken."""
    task_id, version_id = uuid7(), uuid7()
    statement = (
        insert(table)
        .values(
            id=task_id,
            owner_id=owner,
            agent_id=agent_id,
            name=name,
            description=description,
            active=active,
            current_version_id=version_id,
        )
        .on_conflict_do_nothing(index_elements=["owner_id", "name"], index_where=EXISTS)
        .returning(table.c.id)
    )
    if connection.execute(statement).first() is None:
        return None
    _add_version(connection, version_id, task_id, 1, spec)
    return task_id


def change(connection: Connection, task: Task, wanted: TaskChange) -> None:
    """Change a locked task; a specification becomes its next version."""
    values: dict[str, Any] = {"updated_at": func.now()}
    for name in ("description", "active", "agent_id"):
        if getattr(wanted, name) is not None:
            values[name] = getattr(wanted, name)
    if wanted.spec is not None:
        values["current_version_id"] = uuid7()
        version = values["current_version_id"]
        _add_version(connection, version, task.id, task.version + 1, wanted.spec)
    connection.execute(update(table).where(table.c.id == task.id).values(values))


def delete(connection: Connection, task_id: UUID) -> None:
    """Mark a locked task as deleted; after the commit it takes no new executions."""
    connection.execute(
        update(table).where(table.c.id == task_id).values(deleted_at=func.now(), active=False)
    )


def names_with_agent(connection: Connection, agent_id: UUID, *, limit: int) -> list[str]:
    """Return the names of up to `limit` tasks of an agent, of all owners."""
    query = select(table.c.name).where(table.c.agent_id == agent_id, EXISTS)
    return list(connection.execute(query.order_by(table.c.name).limit(limit)).scalars())


def _add_version(
    connection: Connection, version_id: UUID, task_id: UUID, number: int, spec: TaskSpec
) -> None:
    connection.execute(
        insert(versions).values(
            id=version_id, task_id=task_id, version=number, spec=spec.model_dump(mode="json")
        )
    )


def _task(row: Row[Any]) -> Task:
    return value_of(Task, row, spec=TaskSpec.model_validate)
