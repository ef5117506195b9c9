"""Tasks: creation, reading, changes and deletion."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import TypeVar
from uuid import UUID

import structlog

from celeriac.db import audit, limits
from celeriac.db.budgets import management
from celeriac.db.catalog import AGENTS, TASKS
from celeriac.db.engine import Connection, Database
from celeriac.db.executions import pauses, queries
from celeriac.domain.accounts import Actor, Role
from celeriac.domain.agents import AgentSpec, RunnerName
from celeriac.domain.budget_kinds import Period
from celeriac.domain.errors import (
    ConflictError,
    InvalidInputError,
    NotFoundError,
    TemplateInvalidError,
)
from celeriac.domain.executions.model import ExecutionFilter
from celeriac.domain.limits import check_fields
from celeriac.domain.paging import Page
from celeriac.domain.prompts import check_template
from celeriac.domain.publishing import check_publication
from celeriac.domain.schemas import check_schema
from celeriac.domain.tasks import Agent, Task, TaskSpec
from celeriac.kit.ids import parse_uuid
from celeriac.services.catalog import versioned
from celeriac.services.reading import read_page
from celeriac.services.repositories import RepositoryCheck
from celeriac.services.secrets.grants import (
    REPOSITORY_FIELD,
    require_repository_grant,
    unknown_repository_secret,
)

logger = structlog.get_logger(__name__)

_PROMPTED = frozenset({RunnerName.LLM, RunnerName.CLAUDE})
"""Runners that need a prompt."""

_NAMES_CACHED = 10_000

_T = TypeVar("_T")

CancelTask = Callable[[Actor, UUID], object]
"""Cancels the executions of a task: `Cancel.all_of_task`."""


class Tasks:
    """The tasks of all workspaces. Safe to share between threads.

    A `reference` is an id, or a name in the actor's workspace.
    """

    def __init__(self, database: Database, repositories: RepositoryCheck | None = None) -> None:
        """Work on `database`; `repositories` says which ones tasks may name (None: all)."""
        self._database = database
        self._repositories = repositories
        self._ids: dict[tuple[UUID, str], UUID] = {}

    def create(
        self,
        actor: Actor,
        *,
        name: str,
        agent: str,
        spec: TaskSpec,
        description: str = "",
        active: bool = True,
    ) -> Task:
        """Store a task at version 1; `agent` is a reference as well.

        Raises ForbiddenError, NotFoundError for its agent, NameTakenError, SchemaInvalidError and
        TemplateInvalidError.
        """
        actor.require(Role.OPERATOR)
        self._check(spec)
        with self._database.transaction() as connection:
            task = add_task(
                connection,
                actor,
                name=name,
                agent=agent,
                spec=spec,
                description=description,
                active=active,
            )
        logger.info("task.created", task_id=task.id, name=name)
        return task

    def get(self, actor: Actor, reference: str) -> Task:
        """Return a task that the actor may see. Raises NotFoundError."""
        with self._database.autocommit() as connection:
            return versioned.get(connection, TASKS, actor, reference)

    def resolve(self, actor: Actor, reference: str) -> UUID:
        """Return the id that `reference` means in the actor's workspace.

        An id is returned unchecked. Raises NotFoundError for an unknown name.
        """
        return versioned.resolve(self._database, TASKS, actor, reference)

    def use(self, actor: Actor, reference: str, use: Callable[[UUID], _T]) -> _T:
        """Return `use(id)` for the task that `reference` means; known names need no query.

        A task keeps its name until it is deleted, which another process may do: if `use` finds no
        task with the known id, the name is looked up again, once. Raises what `resolve` and `use`
        raise.
        """
        known = self._ids.get((actor.workspace_id, reference))
        if known is not None:
            try:
                return use(known)
            except NotFoundError as error:
                if error.details["resource"] != "task":
                    raise
                self._ids.pop((actor.workspace_id, reference), None)
        key = self.resolve(actor, reference)
        if parse_uuid(reference) is None:
            if len(self._ids) >= _NAMES_CACHED:
                self._ids.clear()
            self._ids[actor.workspace_id, reference] = key
        return use(key)

    def find(
        self,
        actor: Actor,
        *,
        active: bool | None = None,
        cursor: str | None = None,
        limit: int = 50,
    ) -> Page[Task]:
        """Return a page of the tasks that the actor may see. Raises CursorInvalidError."""
        find = partial(TASKS.find, workspace=actor.workspace_id, active=active)
        return read_page(self._database, "tasks", cursor, limit, find)

    def change(
        self,
        actor: Actor,
        reference: str,
        *,
        description: str | None = None,
        active: bool | None = None,
        agent: str | None = None,
        spec: TaskSpec | None = None,
    ) -> Task:
        """Change a task; executions that are submitted from now on use the changed one.

        None keeps a value. Raises what `create` raises, and NotFoundError for the task.
        """
        actor.require(Role.OPERATOR)
        if spec is not None:
            self._check(spec)
        with self._database.transaction() as connection:
            task = versioned.get(connection, TASKS, actor, reference, lock=True)
            changed = change_task(
                connection,
                actor,
                task,
                description=description,
                active=active,
                agent=agent,
                spec=spec,
            )
        logger.info("task.changed", task_id=task.id, version=changed.version)
        return changed

    def delete(self, actor: Actor, reference: str, *, cancel: CancelTask | None = None) -> None:
        """Delete a task and its budgets; its versions and executions stay.

        With `cancel` its executions are cancelled by it; running ones end within seconds. Raises
        ForbiddenError, NotFoundError, and without `cancel` ConflictError if executions have not
        ended.
        """
        actor.require(Role.OPERATOR)
        if cancel is not None:
            self._end_work(actor, reference, cancel)
        with self._database.transaction() as connection:
            task = versioned.get(connection, TASKS, actor, reference, lock=True)
            open_ones = ExecutionFilter(task_id=task.id, cancellable=True)
            if queries.find_ids(connection, open_ones, before=None, limit=1):
                raise ConflictError(
                    f"The task {task.name!r} has executions that have not ended. Wait for them, or "
                    "cancel them with it: cancel=true.",
                )
            # inactive too: from the commit on nothing can be submitted to it
            versioned.delete(connection, TASKS, actor, task, active=False)
            _delete_budgets(connection, actor, task.id)
            pauses.remove_of_task(connection, task.id)
            pauses.remove_of_limits(connection, limits.delete_of(connection, task.id))
        self._ids.pop((task.workspace_id, task.name), None)
        logger.info("task.deleted", task_id=task.id, name=task.name)

    def faults(self, spec: TaskSpec) -> Iterator[InvalidInputError]:
        """Yield what is wrong with a specification, whatever its agent is."""
        yield from task_faults(spec)
        try:
            if self._repositories is not None:
                self._repositories(spec)
        except InvalidInputError as error:
            yield error

    def _check(self, spec: TaskSpec) -> None:
        for fault in self.faults(spec):
            raise fault

    def _end_work(self, actor: Actor, reference: str, cancel: CancelTask) -> None:
        """Deactivate a task and cancel its executions. Repeatable."""
        with self._database.transaction() as connection:
            task = versioned.get(connection, TASKS, actor, reference, lock=True)
            if task.active:
                change_task(connection, actor, task, active=False)
        cancel(actor, task.id)


def _delete_budgets(connection: Connection, actor: Actor, task_id: UUID) -> None:
    found = management.find(
        connection, workspace=None, subject_id=task_id, before=None, limit=len(Period)
    )
    for each in found:
        management.delete(connection, each.id)
        details = {"scope": each.scope.value, "subject_id": str(task_id)}
        audit.record(connection, actor, "budget.delete", [each.id], details=details)


def add_task(
    connection: Connection, actor: Actor, *, name: str, agent: str, spec: TaskSpec, **values: object
) -> Task:
    """Store a checked task in the caller's transaction.

    Raises ForbiddenError and InvalidInputError for the secret of its repository, NotFoundError,
    NameTakenError, and TemplateInvalidError if its agent needs a prompt.
    """
    _check_secret(connection, actor, spec, None)
    used = _used_agent(connection, actor, agent)
    check_prompt(used.spec, spec)
    return versioned.add(connection, TASKS, actor, name=name, spec=spec, agent_id=used.id, **values)


def change_task(
    connection: Connection,
    actor: Actor,
    task: Task,
    *,
    agent: str | None = None,
    spec: TaskSpec | None = None,
    **values: object,
) -> Task:
    """Change a locked, checked task in the caller's transaction; None keeps a value.

    Raises ForbiddenError and InvalidInputError for the secret of its repository, NotFoundError for
    the agent, and TemplateInvalidError if the agent needs a prompt.
    """
    if spec is not None:
        _check_secret(connection, actor, spec, task.spec)
    used = None if agent is None else _used_agent(connection, actor, agent)
    if spec is not None or used is not None:
        of_task = used or AGENTS.by_id(connection, task.agent_id, workspace=None)
        if of_task is not None:
            check_prompt(of_task.spec, spec or task.spec)
    agent_id = None if used is None else used.id
    return versioned.change(connection, TASKS, actor, task, spec=spec, agent_id=agent_id, **values)


def _check_secret(
    connection: Connection, actor: Actor, spec: TaskSpec, before: TaskSpec | None
) -> None:
    require_repository_grant(actor, spec, before)
    fault = unknown_repository_secret(connection, actor, spec)
    if fault is not None:
        raise InvalidInputError(fault, field=REPOSITORY_FIELD)


def _used_agent(connection: Connection, actor: Actor, reference: str) -> Agent:
    """Return the agent of a task; it can't be deleted before the commit. Raises NotFoundError."""
    agent = versioned.get(connection, AGENTS, actor, reference)
    if not AGENTS.keep(connection, agent.id):
        raise NotFoundError("agent", reference)
    return agent


def task_faults(spec: TaskSpec) -> Iterator[InvalidInputError]:
    """Yield what is wrong with a specification by itself."""
    checks: tuple[Callable[[], None], ...] = (
        lambda: check_schema(spec.variables_schema, field="spec.variables_schema"),
        lambda: check_schema(spec.output_schema or {}, field="spec.output_schema"),
        lambda: check_template(spec.prompt, spec.variables_schema),
        lambda: _check_publication(spec),
    )
    for check in checks:
        try:
            check()
        except InvalidInputError as error:
            yield error
    for place, key in _keys(spec):
        try:
            check_fields(key, "variables", spec.variables_schema, "the variables_schema")
        except ValueError as error:
            field = f"spec.{place}.key"
            yield InvalidInputError(f"{field}: {error}", field=field)


def _keys(spec: TaskSpec) -> Iterator[tuple[str, str]]:
    """Yield the keys of limits, rates and debounce, with their places."""
    yield from ((f"concurrency.{n}", each.key) for n, each in enumerate(spec.concurrency))
    yield from ((f"rates.{n}", each.key) for n, each in enumerate(spec.rates))
    if spec.debounce is not None:
        yield "debounce", spec.debounce.key


def _check_publication(spec: TaskSpec) -> None:
    if spec.repository is not None:
        check_publication(spec.repository, spec.variables_schema)


def check_prompt(agent: AgentSpec, spec: TaskSpec) -> None:
    """Raise TemplateInvalidError if the agent needs a prompt and the task has none."""
    if agent.runner in _PROMPTED and not spec.prompt.strip():
        raise TemplateInvalidError(
            f"The prompt is empty; an agent of the kind {agent.runner} needs one: what it is to "
            "do, with {{ name }} for a variable.",
            field="spec.prompt",
        )
