"""Agents and their versions."""

from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Row, func, select, update
from sqlalchemy.dialects.postgresql import insert

from celeriac.db.paging import Rows, columns, given, newest, read_bounded, read_one, value_of
from celeriac.db.schema import agent_versions as versions
from celeriac.db.schema import agents as table
from celeriac.domain.agents import AgentSpec
from celeriac.domain.executions.model import agent_spec
from celeriac.domain.tasks import Agent
from celeriac.kit.ids import uuid7

_SELECT = columns(Agent, table, version=versions.c.version, spec=versions.c.spec).join_from(
    table, versions, versions.c.id == table.c.current_version_id
)

EXISTS = table.c.deleted_at.is_(None)
"""The condition of rows that are not deleted."""


def by_id(
    connection: Connection, agent_id: UUID, *, owner: UUID | None, lock: bool = False
) -> Agent | None:
    """Return an agent of `owner` (None: of anyone) or None; `lock` locks its row."""
    query = given(_SELECT.where(table.c.id == agent_id, EXISTS), (table.c.owner_id, owner))
    return read_one(connection, query.with_for_update(of=table) if lock else query, _agent)


def id_of_name(connection: Connection, name: str, *, owner: UUID) -> UUID | None:
    """Return the id of the agent of `owner` with this name, or None."""
    query = select(table.c.id).where(table.c.owner_id == owner, table.c.name == name, EXISTS)
    return connection.execute(query).scalar_one_or_none()


def find(
    connection: Connection, *, owner: UUID | None, before: UUID | None, limit: int
) -> Rows[Agent]:
    """Return up to `limit` agents with smaller ids than `before`, the newest first."""
    query = given(_SELECT.where(EXISTS), (table.c.owner_id, owner))
    page = newest(query, table.c.id, before=before, limit=limit)
    found = read_bounded(connection, page, bulky=[versions.c.spec])
    return Rows(list(map(_agent, found.items)), more=found.more)


def add(
    connection: Connection, *, owner: UUID, name: str, description: str, spec: AgentSpec
) -> UUID | None:
    """Insert an agent at version 1 and return its id, or None if the name is taken."""
    agent_id, version_id = uuid7(), uuid7()
    statement = (
        insert(table)
        .values(
            id=agent_id,
            owner_id=owner,
            name=name,
            description=description,
            current_version_id=version_id,
        )
        .on_conflict_do_nothing(index_elements=["owner_id", "name"], index_where=EXISTS)
        .returning(table.c.id)
    )
    if connection.execute(statement).first() is None:
        return None
    _add_version(connection, version_id, agent_id, 1, spec)
    return agent_id


def change(
    connection: Connection, agent: Agent, *, description: str | None, spec: AgentSpec | None
) -> None:
    """Change a locked agent; a specification becomes its next version. None keeps the value."""
    values: dict[str, Any] = {"updated_at": func.now()}
    if description is not None:
        values["description"] = description
    if spec is not None:
        values["current_version_id"] = uuid7()
        _add_version(connection, values["current_version_id"], agent.id, agent.version + 1, spec)
    connection.execute(update(table).where(table.c.id == agent.id).values(values))


def delete(connection: Connection, agent_id: UUID) -> None:
    """Mark a locked agent as deleted."""
    connection.execute(update(table).where(table.c.id == agent_id).values(deleted_at=func.now()))


def keep(connection: Connection, agent_id: UUID) -> bool:
    """Prevent an agent's deletion until the transaction ends; False if it is deleted."""
    query = select(table.c.id).where(table.c.id == agent_id, EXISTS)
    query = query.with_for_update(read=True, key_share=True)
    return connection.execute(query).first() is not None


def _add_version(
    connection: Connection, version_id: UUID, agent_id: UUID, number: int, spec: AgentSpec
) -> None:
    connection.execute(
        insert(versions).values(
            id=version_id, agent_id=agent_id, version=number, spec=spec.model_dump(mode="json")
        )
    )


def _agent(row: Row[Any]) -> Agent:
    return value_of(Agent, row, spec=agent_spec)
