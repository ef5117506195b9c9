"""Tasks: making, reading and changing them."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar
from uuid import UUID

import structlog
from sqlalchemy import Connection

from celeriac.db import audit, budgets
from celeriac.db.catalog import agents, tasks
from celeriac.db.catalog.tasks import TaskChange
from celeriac.db.engine import Database
from celeriac.db.executions import queries
from celeriac.domain.accounts import Actor, Role
from celeriac.domain.agents import AgentSpec, RunnerName
from celeriac.domain.audit import changes
from celeriac.domain.budget_kinds import Period
from celeriac.domain.errors import (
    ConflictError,
    InvalidInputError,
    NameTakenError,
    NotFoundError,
    TemplateInvalidError,
)
from celeriac.domain.executions.model import ExecutionFilter
from celeriac.domain.paging import Page, read_cursor
from celeriac.domain.prompts import check_template
from celeriac.domain.schemas import check_schema
from celeriac.domain.tasks import Task, TaskSpec
from celeriac.kit.ids import parse_uuid
from celeriac.services.catalog.agents import used_agent
from celeriac.services.executions.stop import Cancel

logger = structlog.get_logger(__name__)

_KIND = "tasks"
_PROMPTED = frozenset({RunnerName.LLM, RunnerName.CLAUDE})
"""Kinds of agents that do nothing without a prompt."""

_NAMES_CACHED = 10_000

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, kw_only=True)
class NewTask:
    """What a new task is; `agent` is an id or the name of one of the actor's own agents."""

    name: str
    agent: str
    spec: TaskSpec
    description: str = ""
    active: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskEdit:
    """What to change; None keeps what there is."""

    description: str | None = None
    active: bool | None = None
    agent: str | None = None
    spec: TaskSpec | None = None


class Tasks:
    """The tasks of all users. Safe to share between threads.

    Where a `reference` is taken it is an id, or the name of one of the actor's own tasks.
    """

    def __init__(self, database: Database) -> None:
        """Work on `database`."""
        self._database = database
        self._ids: dict[tuple[UUID, str], UUID] = {}

    def create(self, actor: Actor, new: NewTask) -> Task:
        """Store a task at version 1.

        Raises ForbiddenError, NotFoundError for its agent, NameTakenError, SchemaInvalidError and
        TemplateInvalidError.
        """
        actor.require(Role.OPERATOR)
        _check(new.spec)
        with self._database.transaction() as connection:
            task = add_task(connection, actor, new)
        logger.info("task.created", task_id=task.id, name=new.name)
        return task

    def get(self, actor: Actor, reference: str) -> Task:
        """Return a task that the actor may see. Raises NotFoundError."""
        with self._database.statement() as connection:
            return _found(connection, actor, reference)

    def resolve(self, actor: Actor, reference: str) -> UUID:
        """Return the id that `reference` means for the actor.

        Whether the actor may see a task given by its id, and whether it is there, is for the caller
        to find out. Raises NotFoundError for an unknown name.
        """
        key = parse_uuid(reference)
        if key is not None:
            return key
        with self._database.statement() as connection:
            key = tasks.id_of_name(connection, reference, owner=actor.user_id)
        if key is None:
            self._ids.pop((actor.user_id, reference), None)
            raise NotFoundError("task", reference)
        if len(self._ids) >= _NAMES_CACHED:
            self._ids.clear()
        self._ids[actor.user_id, reference] = key
        return key

    def use(self, actor: Actor, reference: str, use: Callable[[UUID], _T]) -> _T:
        """Return `use(id)` for the task that `reference` means, without a query where it is known.

        A task keeps its name until it is deleted, which another process may have done: where the
        task that was known by the name is not found, the name is looked up, once. Raises what
        `resolve` and `use` raise.
        """
        known = self._ids.get((actor.user_id, reference))
        if known is not None:
            try:
                return use(known)
            except NotFoundError as error:
                if error.details["resource"] != "task":
                    raise
        return use(self.resolve(actor, reference))

    def find(
        self,
        actor: Actor,
        *,
        active: bool | None = None,
        cursor: str | None = None,
        limit: int = 50,
    ) -> Page[Task]:
        """Return a page of the tasks that the actor may see. Raises CursorInvalidError."""
        before = read_cursor(_KIND, cursor)
        with self._database.statement() as connection:
            found = tasks.find(
                connection, owner=actor.scope, active=active, before=before, limit=limit + 1
            )
        return Page.cut(
            found.items, limit=limit, kind=_KIND, key=lambda task: task.id, more=found.more
        )

    def change(self, actor: Actor, reference: str, edit: TaskEdit) -> Task:
        """Change a task; executions submitted from now on use it as it is then.

        Raises what `create` raises, and NotFoundError for the task.
        """
        actor.require(Role.OPERATOR)
        if edit.spec is not None:
            _check(edit.spec)
        with self._database.transaction() as connection:
            task = _found(connection, actor, reference, lock=True)
            changed = change_task(connection, actor, task, edit)
        logger.info("task.changed", task_id=task.id, version=changed.version)
        return changed

    def delete(self, actor: Actor, reference: str, *, cancel: Cancel | None = None) -> None:
        """Delete a task and its budgets; its versions and executions stay.

        With `cancel` its executions that have not ended are cancelled by it; those that run end
        within seconds. Raises ForbiddenError, NotFoundError, and without `cancel` ConflictError
        where executions have not ended.
        """
        actor.require(Role.OPERATOR)
        if cancel is not None:
            self._end_work(actor, reference, cancel)
        with self._database.transaction() as connection:
            task = _found(connection, actor, reference, lock=True)
            open_ones = ExecutionFilter(task_id=task.id, cancellable=True)
            if queries.find_ids(connection, open_ones, before=None, limit=1):
                raise ConflictError(
                    f"The task {task.name!r} has executions that have not ended. Wait for them, or "
                    "cancel them with it: cancel=true.",
                )
            tasks.delete(connection, task.id)
            _remove_budgets(connection, actor, task.id)
            details = {"name": task.name}
            audit.record(connection, actor, "task.delete", "task", [task.id], details=details)
        self._ids.pop((task.owner_id, task.name), None)
        logger.info("task.deleted", task_id=task.id, name=task.name)

    def _end_work(self, actor: Actor, reference: str, cancel: Cancel) -> None:
        """Switch a task off, and cancel what it has begun; again, where that was interrupted."""
        with self._database.transaction() as connection:
            task = _found(connection, actor, reference, lock=True)
            if task.active:
                change_task(connection, actor, task, TaskEdit(active=False))
        cancel.all_of_task(actor, task.id)


def _remove_budgets(connection: Connection, actor: Actor, task_id: UUID) -> None:
    found = budgets.find(connection, owner=None, subject_id=task_id, before=None, limit=len(Period))
    for each in found:
        budgets.remove(connection, each.id)
        details = {"scope": each.scope.value, "subject_id": str(task_id)}
        audit.record(connection, actor, "budget.remove", "budget", [each.id], details=details)


def add_task(connection: Connection, actor: Actor, new: NewTask) -> Task:
    """Store a checked task in the caller's transaction.

    Raises NotFoundError, NameTakenError, and TemplateInvalidError where its agent needs a prompt.
    """
    agent = used_agent(connection, actor, new.agent)
    check_prompt(agent.spec, new.spec)
    made = tasks.add(
        connection,
        owner=actor.user_id,
        agent_id=agent.id,
        name=new.name,
        description=new.description,
        active=new.active,
        spec=new.spec,
    )
    if made is None:
        raise NameTakenError(
            f"You already have a task named {new.name!r}; choose another name or change that one.",
            field="name",
        )
    audit.record(connection, actor, "task.create", "task", [made])
    return _found(connection, actor, str(made))


def change_task(connection: Connection, actor: Actor, task: Task, edit: TaskEdit) -> Task:
    """Change a locked task, as checked, in the caller's transaction; return it as it is then.

    Raises NotFoundError for the agent, and TemplateInvalidError where the agent needs a prompt.
    """
    agent = None if edit.agent is None else used_agent(connection, actor, edit.agent)
    if edit.spec is not None or agent is not None:
        does = agent or agents.by_id(connection, task.agent_id, owner=None)
        if does is not None:
            check_prompt(does.spec, edit.spec or task.spec)
    wanted = TaskChange(
        description=edit.description,
        active=edit.active,
        agent_id=None if agent is None else agent.id,
        spec=None if edit.spec == task.spec else edit.spec,
    )
    tasks.change(connection, task, wanted)
    changed = _found(connection, actor, str(task.id))
    details = changes(task, changed)
    audit.record(connection, actor, "task.change", "task", [task.id], details=details)
    return changed


def task_named(connection: Connection, actor: Actor, name: str, *, lock: bool) -> Task | None:
    """Return the actor's own task of that name; `lock` holds its row for a change."""
    key = tasks.id_of_name(connection, name, owner=actor.user_id)
    return None if key is None else tasks.by_id(connection, key, owner=actor.user_id, lock=lock)


def found_task(connection: Connection, actor: Actor, reference: str) -> Task:
    """Return the task that `reference` means for the actor. Raises NotFoundError."""
    return _found(connection, actor, reference)


def task_faults(spec: TaskSpec) -> Iterator[InvalidInputError]:
    """Yield what is wrong with a specification by itself."""
    checks: tuple[Callable[[], None], ...] = (
        lambda: check_schema(spec.variables_schema, field="spec.variables_schema"),
        lambda: check_schema(spec.output_schema or {}, field="spec.output_schema"),
        lambda: check_template(spec.prompt, spec.variables_schema),
    )
    for check in checks:
        try:
            check()
        except InvalidInputError as error:
            yield error


def check_prompt(agent: AgentSpec, spec: TaskSpec) -> None:
    """Refuse a task whose agent is told nothing; raises TemplateInvalidError."""
    if agent.runner in _PROMPTED and not spec.prompt.strip():
        raise TemplateInvalidError(
            f"The prompt is empty; an agent of the kind {agent.runner} needs one: what it is to "
            "do, with {{ name }} for a variable.",
            field="spec.prompt",
        )


def _check(spec: TaskSpec) -> None:
    for fault in task_faults(spec):
        raise fault


def _found(connection: Connection, actor: Actor, reference: str, *, lock: bool = False) -> Task:
    key = parse_uuid(reference) or tasks.id_of_name(connection, reference, owner=actor.user_id)
    task = None if key is None else tasks.by_id(connection, key, owner=actor.scope, lock=lock)
    if task is None:
        raise NotFoundError("task", reference)
    return task
