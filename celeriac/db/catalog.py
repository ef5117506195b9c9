"""Agents, tasks and workflows, their versions, and the specifications that executions run with."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from hashlib import sha256
from operator import itemgetter
from typing import Any, Generic, TypeVar
from uuid import UUID

from pydantic import ValidationError
from sqlalchemy import Connection, Row, Select, Table, func, select, update
from sqlalchemy.dialects.postgresql import Insert, insert

from celeriac.db import limits
from celeriac.db.paging import Rows, columns, given, newest, read_bounded, read_one, reader
from celeriac.db.schema.accounts import workspaces
from celeriac.db.schema.catalog import (
    agent_versions,
    agents,
    specs,
    task_versions,
    tasks,
    workflow_versions,
    workflows,
)
from celeriac.domain.agents import AgentSpec
from celeriac.domain.executions.model import ExecutionSpec, agent_spec
from celeriac.domain.executions.options import unreadable
from celeriac.domain.tasks import Agent, Task, TaskSpec
from celeriac.domain.workflows.model import WorkflowSpec
from celeriac.domain.workflows.records import Workflow, WorkflowVersion
from celeriac.kit.ids import uuid7
from celeriac.kit.json_types import JsonObject, dumps

T = TypeVar("T", Agent, Task, Workflow)

Spec = AgentSpec | TaskSpec | WorkflowSpec
"""The contents of a version."""


class Versioned(Generic[T]):
    """The rows of agents, of tasks or of workflows.

    They are named within a workspace, and versioned by specification.

    A deleted row is only marked: its versions belong to the executions that ran them. Versions with
    the same contents share a row of `specs`.
    """

    def __init__(
        self,
        kind: type[T],
        table: Table,
        versions: Table,
        read_spec: Callable[[JsonObject], Spec],
    ) -> None:
        self.name = kind.__name__.lower()
        """`agent`, `task` or `workflow`, as in messages and the audit trail."""
        self._table = table
        self._versions = versions
        self._read: Callable[[Row[Any]], T] = reader(kind, spec=read_spec)
        self._exists = table.c.deleted_at.is_(None)
        self._spec = specs.c.body.label("spec")
        joined = {"version": versions.c.version, "spec": specs.c.body}
        if kind is Task:
            joined["agent_name"] = agents.c.name
        self._selected = (
            columns(kind, table, **joined)
            .join_from(table, versions, versions.c.id == table.c.current_version_id)
            .join(specs, specs.c.hash == versions.c.spec_hash)
        )
        if kind is Task:
            self._selected = self._selected.join(agents, agents.c.id == table.c.agent_id)

    def by_id(
        self, connection: Connection, key: UUID, *, workspace: UUID | None, lock: bool = False
    ) -> T | None:
        """Return a row of `workspace` (None: of any), or None; `lock` locks it for a change."""
        query = self._selected.where(self._table.c.id == key, self._exists)
        query = given(query, (self._table.c.workspace_id, workspace))
        query = query.with_for_update(of=self._table) if lock else query
        return read_one(connection, query, self._read)

    def id_of_name(self, connection: Connection, name: str, *, workspace: UUID) -> UUID | None:
        """Return the id of what is named so in `workspace`, or None."""
        table = self._table
        query = select(table.c.id).where(
            table.c.workspace_id == workspace, table.c.name == name, self._exists
        )
        return connection.execute(query).scalar_one_or_none()

    def find(
        self,
        connection: Connection,
        *,
        workspace: UUID,
        before: UUID | None,
        limit: int,
        active: bool | None = None,
    ) -> Rows[T]:
        """Return up to `limit` rows older than `before`, the newest first.

        `active` selects among tasks.
        """
        query = self._selected.where(self._exists, self._table.c.workspace_id == workspace)
        if active is not None:
            query = query.where(self._table.c.active.is_(active))
        query = newest(query, self._table.c.id, before=before, limit=limit)
        return read_bounded(connection, query, self._read, bulky=[self._spec])

    def add(
        self,
        connection: Connection,
        *,
        workspace: UUID,
        owner: UUID,
        spec: Spec,
        **values: object,
    ) -> UUID | None:
        """Insert a row with `values` at version 1; return its id, or None if the name is taken."""
        key, version_id = uuid7(), uuid7()
        statement = (
            insert(self._table)
            .values(
                id=key,
                workspace_id=workspace,
                owner_id=owner,
                current_version_id=version_id,
                **values,
            )
            .on_conflict_do_nothing(
                index_elements=["workspace_id", "name"], index_where=self._exists
            )
            .returning(self._table.c.id)
        )
        if connection.execute(statement).first() is None:
            return None
        self._add_version(connection, version_id, key, 1, spec)
        return key

    def change(
        self,
        connection: Connection,
        found: T,
        *,
        spec: Spec | None,
        **values: object,
    ) -> None:
        """Change a locked row; a `spec` becomes its next version. None keeps a value."""
        changed = {name: value for name, value in values.items() if value is not None}
        if spec is not None:
            changed["current_version_id"] = version_id = uuid7()
            self._add_version(connection, version_id, found.id, found.version + 1, spec)
        statement = update(self._table).where(self._table.c.id == found.id)
        connection.execute(statement.values(updated_at=func.now(), **changed))

    def delete(self, connection: Connection, key: UUID, **values: object) -> None:
        """Mark a locked row as deleted, and set `values`."""
        statement = update(self._table).where(self._table.c.id == key)
        connection.execute(statement.values(deleted_at=func.now(), **values))

    def keep(self, connection: Connection, key: UUID) -> bool:
        """Prevent deletion until the transaction ends; False if the row is deleted already."""
        query = select(self._table.c.id).where(self._table.c.id == key, self._exists)
        query = query.with_for_update(read=True, key_share=True)
        return connection.execute(query).first() is not None

    def versions(
        self, connection: Connection, key: UUID, *, before: UUID | None, limit: int
    ) -> list[Row[Any]]:
        """Return up to `limit` versions of a row, the newest first: id, version, spec, time."""
        versions = self._versions
        query: Select[Any] = (
            select(versions.c.id, versions.c.version, self._spec, versions.c.created_at)
            .join(specs, specs.c.hash == versions.c.spec_hash)
            .where(versions.c[f"{self.name}_id"] == key)
        )
        query = newest(query, versions.c.id, before=before, limit=limit)
        return [*connection.execute(query)]

    def _add_version(
        self,
        connection: Connection,
        version_id: UUID,
        key: UUID,
        number: int,
        spec: Spec,
    ) -> None:
        values = {
            "id": version_id,
            f"{self.name}_id": key,
            "version": number,
            "spec_hash": _hash(spec),
        }
        statement = insert(self._versions).values(values)
        connection.execute(statement.add_cte(_stored([spec]).cte("stored")))


def store_specs(connection: Connection, wanted: Sequence[Spec]) -> None:
    """Store the contents of several versions before the versions.

    A transaction that adds more than one version calls this first. Two that add the same contents
    wait for each other, and the order of the hashes keeps them from a deadlock.
    """
    if wanted:
        connection.execute(_stored(wanted))


def _stored(wanted: Sequence[Spec]) -> Insert:
    bodies = {_hash(spec): spec.model_dump(mode="json") for spec in wanted}
    rows = [
        {"hash": digest, "body": body} for digest, body in sorted(bodies.items(), key=itemgetter(0))
    ]
    return insert(specs).values(rows).on_conflict_do_nothing()


def is_same(one: Spec, other: Spec) -> bool:
    """Whether two specifications have the same contents, in the same order of fields."""
    return _hash(one) == _hash(other)


def _hash(spec: Spec) -> bytes:
    return sha256(dumps(spec.model_dump(mode="json")).encode()).digest()


AGENTS = Versioned(Agent, agents, agent_versions, agent_spec)
TASKS = Versioned(Task, tasks, task_versions, TaskSpec.model_validate)
WORKFLOWS = Versioned(Workflow, workflows, workflow_versions, WorkflowSpec.model_validate)


def workflow_version(connection: Connection, version_id: UUID) -> WorkflowVersion | None:
    """Return a version of a workflow, also of a deleted one, or None.

    Raises SpecificationUnreadableError for one of a newer release.
    """
    versions = workflow_versions
    query = (
        select(
            versions.c.id, versions.c.workflow_id, versions.c.version, specs.c.body,
            versions.c.created_at,
        )
        .join(specs, specs.c.hash == versions.c.spec_hash)
        .where(versions.c.id == version_id)
    )  # fmt: skip
    row = connection.execute(query).one_or_none()
    if row is None:
        return None
    try:
        spec = WorkflowSpec.model_validate(row.body)
    except ValidationError as error:
        raise unreadable("workflow", error) from error
    return WorkflowVersion(row.id, row.workflow_id, row.version, spec, row.created_at)


def workflow_name(connection: Connection, workflow_id: UUID) -> str:
    """Return the name of a workflow, also of a deleted one; it never changes."""
    query = select(workflows.c.name).where(workflows.c.id == workflow_id)
    return str(connection.execute(query).scalar_one())


def _named_specs(
    connection: Connection, table: Table, versions: Table, names: Collection[str], workspace: UUID
) -> dict[str, JsonObject]:
    query = (
        select(table.c.name, specs.c.body)
        .join_from(table, versions, versions.c.id == table.c.current_version_id)
        .join(specs, specs.c.hash == versions.c.spec_hash)
        .where(
            table.c.workspace_id == workspace,
            table.c.name.in_(sorted(names)),
            table.c.deleted_at.is_(None),
        )
    )
    return {row.name: row.body for row in connection.execute(query)}


def task_specs(
    connection: Connection, names: Collection[str], *, workspace: UUID
) -> dict[str, JsonObject]:
    """Return the current specifications of those tasks that exist, as they are stored."""
    return _named_specs(connection, tasks, task_versions, names, workspace)


def workflow_specs(
    connection: Connection, names: Collection[str], *, workspace: UUID
) -> dict[str, JsonObject]:
    """Return the current specifications of those workflows that exist, as they are stored."""
    return _named_specs(connection, workflows, workflow_versions, names, workspace)


def names_with_agent(connection: Connection, agent_id: UUID, *, limit: int) -> list[str]:
    """Return the names of up to `limit` tasks of an agent."""
    query = select(tasks.c.name).where(tasks.c.agent_id == agent_id, tasks.c.deleted_at.is_(None))
    return list(connection.execute(query.order_by(tasks.c.name).limit(limit)).scalars())


_task_specs, _agent_specs = specs.alias("task_specs"), specs.alias("agent_specs")
_SPEC = select(
    tasks.c.id,
    tasks.c.name,
    tasks.c.workspace_id,
    tasks.c.owner_id,
    task_versions.c.id.label("task_version_id"),
    _task_specs.c.body.label("task_spec"),
    agent_versions.c.id.label("agent_version_id"),
    agents.c.name.label("agent_name"),
    _agent_specs.c.body.label("agent_spec"),
    tasks.c.active,
    workspaces.c.limits_revision,
)


def current_spec(connection: Connection, task_id: UUID) -> tuple[ExecutionSpec, bool] | None:
    """Return a task's current specification and whether the task is active; None if none.

    Costs a statement more if the workspace has limits. They may be newer than their revision.
    """
    query = (
        _SPEC.join_from(tasks, task_versions, task_versions.c.id == tasks.c.current_version_id)
        .join(agents, agents.c.id == tasks.c.agent_id)
        .join(agent_versions, agent_versions.c.id == agents.c.current_version_id)
        .join(_task_specs, _task_specs.c.hash == task_versions.c.spec_hash)
        .join(_agent_specs, _agent_specs.c.hash == agent_versions.c.spec_hash)
        .join(workspaces, workspaces.c.id == tasks.c.workspace_id)
        .where(tasks.c.id == task_id, tasks.c.deleted_at.is_(None))
    )
    row = connection.execute(query).one_or_none()
    if row is None:
        return None
    spec = _spec(row)
    if row.limits_revision:
        of_task = limits.of_task(connection, row.workspace_id, row.id)
        spec = replace(spec, limits=of_task, limits_revision=row.limits_revision)
    return spec, row.active


def spec_of_versions(
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
        .join(_task_specs, _task_specs.c.hash == task_versions.c.spec_hash)
        .join(_agent_specs, _agent_specs.c.hash == agent_versions.c.spec_hash)
        .join(workspaces, workspaces.c.id == tasks.c.workspace_id)
        .where(task_versions.c.id == task_version_id)
    )
    row = connection.execute(query).one_or_none()
    return None if row is None else _spec(row)


def _spec(row: Row[*tuple[Any, ...]]) -> ExecutionSpec:
    try:
        task, agent = TaskSpec.model_validate(row.task_spec), agent_spec(row.agent_spec)
    except ValidationError as error:
        raise unreadable(f"task {row.name!r} or agent {row.agent_name!r}", error) from error
    return ExecutionSpec(
        task_id=row.id,
        task_name=row.name,
        workspace_id=row.workspace_id,
        owner_id=row.owner_id,
        task_version_id=row.task_version_id,
        task=task,
        agent_version_id=row.agent_version_id,
        agent_name=row.agent_name,
        agent=agent,
    )
