"""Execution specifications: a version of a task and one of its agent, in one statement."""

from typing import Any
from uuid import UUID

from pydantic import ValidationError
from sqlalchemy import Connection, Row, select

from celeriac.db.paging import read_one
from celeriac.db.schema import agent_versions, agents, task_versions, tasks
from celeriac.domain.executions.model import ExecutionSpec, agent_spec, unreadable
from celeriac.domain.tasks import TaskSpec

_SPEC = select(
    tasks.c.id,
    tasks.c.name,
    tasks.c.owner_id,
    task_versions.c.id.label("task_version_id"),
    task_versions.c.spec.label("task_spec"),
    agent_versions.c.id.label("agent_version_id"),
    agents.c.name.label("agent_name"),
    agent_versions.c.spec.label("agent_spec"),
    tasks.c.active,
)


def current(connection: Connection, task_id: UUID) -> tuple[ExecutionSpec, bool] | None:
    """Return the current specification of a task and whether the task is active, or None."""
    query = (
        _SPEC.join_from(tasks, task_versions, task_versions.c.id == tasks.c.current_version_id)
        .join(agents, agents.c.id == tasks.c.agent_id)
        .join(agent_versions, agent_versions.c.id == agents.c.current_version_id)
        .where(tasks.c.id == task_id, tasks.c.deleted_at.is_(None))
    )
    return read_one(connection, query, lambda row: (_spec(row), row.active))


def of_versions(
    connection: Connection, task_version_id: UUID, agent_version_id: UUID
) -> ExecutionSpec | None:
    """Return the specification that an execution was submitted with, or None.

    The versions are found by their own ids: the task may have another agent by now. Raises
    SpecificationUnreadableError.
    """
    query = (
        _SPEC.join_from(task_versions, tasks, tasks.c.id == task_versions.c.task_id)
        .join(agent_versions, agent_versions.c.id == agent_version_id)
        .join(agents, agents.c.id == agent_versions.c.agent_id)
        .where(task_versions.c.id == task_version_id)
    )
    return read_one(connection, query, _spec)


def _spec(row: Row[Any]) -> ExecutionSpec:
    try:
        task, agent = TaskSpec.model_validate(row.task_spec), agent_spec(row.agent_spec)
    except ValidationError as error:
        raise unreadable(f"task {row.name!r} or agent {row.agent_name!r}", error) from error
    return ExecutionSpec(
        task_id=row.id,
        task_name=row.name,
        owner_id=row.owner_id,
        task_version_id=row.task_version_id,
        task=task,
        agent_version_id=row.agent_version_id,
        agent_name=row.agent_name,
        agent=agent,
    )
