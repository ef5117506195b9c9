"""Apply: creates and changes what one document names: agents, tasks, and what starts them."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar
from uuid import UUID

import structlog

from celeriac.db import accounts, owners, workspaces
from celeriac.db.catalog import AGENTS, TASKS, WORKFLOWS, Spec, T, Versioned, store_specs
from celeriac.db.engine import Connection, Database
from celeriac.domain.accounts import Actor, Role
from celeriac.domain.agents import AgentSpec
from celeriac.domain.budget_kinds import BudgetScope
from celeriac.domain.document import (
    Action,
    AgentEntry,
    BudgetEntry,
    Document,
    Outcome,
    TaskEntry,
    duplicates,
    plain,
)
from celeriac.domain.errors import (
    DocumentInvalidError,
    InvalidInputError,
    NotFoundError,
    WorkflowInvalidError,
)
from celeriac.domain.schemas import Fault
from celeriac.domain.tasks import Agent, Task, TaskSpec
from celeriac.domain.workflows import document as workflow_documents
from celeriac.domain.workflows.records import Workflow
from celeriac.domain.workflows.validation import Catalog, TaskFacts, spec_faults, targets
from celeriac.kit.json_types import JsonObject
from celeriac.services.budgets.manage import Budgets, budget_of, put_budget
from celeriac.services.catalog import versioned
from celeriac.services.catalog.agents import Agents
from celeriac.services.catalog.tasks import Tasks, add_task, change_task, check_prompt
from celeriac.services.documents.starts import Starts
from celeriac.services.documents.steps import Step, compared, created
from celeriac.services.hooks.manage import Hooks
from celeriac.services.limits import WorkspaceLimits
from celeriac.services.secrets.grants import (
    REPOSITORY_FIELD,
    require_grant,
    require_repository_grant,
    unknown_repository_secret,
    unknown_secrets,
)
from celeriac.services.workflows.catalog import catalog_of, check_workflow

logger = structlog.get_logger(__name__)

_T = TypeVar("_T")


class Apply:
    """Applies documents. Safe to share between threads."""

    def __init__(
        self,
        database: Database,
        agents: Agents,
        budgets: Budgets,
        limits: WorkspaceLimits,
        hooks: Hooks,
        *,
        tasks: Tasks,
    ) -> None:
        self._database = database
        self._agents = agents
        self._tasks = tasks
        self._budgets = budgets
        self._limits = limits
        self._hooks = hooks

    def __call__(self, actor: Actor, document: Document, *, dry_run: bool) -> list[Outcome]:
        """Create what is missing and change what differs, in one transaction.

        Nothing is deleted. With `dry_run` nothing is written, and the outcomes say what would be
        done. Documents of one workspace are applied one at a time. Raises ForbiddenError,
        DocumentInvalidError with all faults, and NameTakenError if the same name is created
        concurrently.
        """
        actor.require(Role.OPERATOR)
        if any(entry.user_id is not None for entry in document.budgets):
            actor.require_administrator()
        if document.hooks or any(not (each.task or each.workflow) for each in document.limits):
            actor.require(Role.ADMIN)
        faults = [*duplicates(document), *self._agent_faults(document)]
        with self._database.transaction() as connection:
            if not dry_run:
                if document.limits:  # as a change of a limit does: the workspace before all else
                    workspaces.lock(connection, actor.workspace_id)
                owners.hold_catalog(connection, actor.workspace_id)
            plan = _Plan(connection, actor, document, self._tasks.faults, lock=not dry_run)
            steps = plan.steps()
            starts = Starts(connection, actor, plan, self._hooks, lock=not dry_run)
            steps += starts.steps(document)
            if faults := [*faults, *plan.faults]:
                raise DocumentInvalidError([(fault.place, fault.message) for fault in faults])
            if dry_run:
                return [step.outcome for step in steps]
            contents: list[Spec] = [entry.spec for entry in document.agents]
            contents += [entry.spec for entry in document.tasks if entry.spec is not None]
            contents += [workflow.spec for workflow in plan.workflows.values()]
            store_specs(connection, contents)
            outcomes = [step.apply(connection) for step in steps]
            plan.check_stored()
        self._after(actor, outcomes)
        return outcomes

    def _agent_faults(self, document: Document) -> Iterator[Fault]:
        for index, entry in enumerate(document.agents):
            for fault in self._agents.faults(entry.spec):
                yield Fault(f"agents.{index}.{_in_spec(fault.field)}", fault.message)

    def _after(self, actor: Actor, outcomes: Sequence[Outcome]) -> None:
        """Log and publish what is committed."""
        for outcome in outcomes:
            if outcome.action is Action.UNCHANGED:
                continue
            if outcome.kind == "budget" and outcome.id is not None:
                self._budgets.after_put(actor, outcome.id)
            if outcome.kind == "limit" and outcome.id is not None:
                self._limits.after_apply(actor, outcome.id)
            logger.info(
                "document.applied",
                kind=outcome.kind,
                id=outcome.id,
                name=outcome.name,
                action=outcome.action,
            )


class _Plan:
    """Compares a document with what is stored: its faults, and the changes to make."""

    def __init__(
        self,
        connection: Connection,
        actor: Actor,
        document: Document,
        task_faults: Callable[[TaskSpec], Iterator[InvalidInputError]],
        *,
        lock: bool,
    ) -> None:
        self._task_faults = task_faults
        self._connection = connection
        self._actor = actor
        self._document = document
        self._lock = lock
        self._agents = {entry.name: entry.spec for entry in document.agents}
        self._tasks: dict[str, Task | None] = {}
        self.workflows: dict[int, workflow_documents.Workflow] = {}
        """Those of the document that are valid by themselves, by their place in it."""
        self.faults: list[Fault] = []

    def steps(self) -> list[Step]:
        """Return the changes in the order of the document; fills `faults`."""
        document = self._document
        return [
            *(self._agent(f"agents.{n}", entry) for n, entry in enumerate(document.agents)),
            *(self._task(f"tasks.{n}", entry) for n, entry in enumerate(document.tasks)),
            *self._budgets(document.budgets),
            *self._workflows(),
        ]

    def _stored(self, kind: Versioned[T], name: str) -> T | None:
        return versioned.get_named(self._connection, kind, self._actor, name, lock=self._lock)

    def _agent(self, place: str, entry: AgentEntry) -> Step:
        found = self._stored(AGENTS, entry.name)
        require_grant(self._actor, entry.spec, None if found is None else found.spec)
        if fault := unknown_secrets(self._connection, self._actor, entry.spec):
            self._fault(f"{place}.spec.secrets", fault)
        description = _either(entry.description, found.description if found else None, "")
        after = {"description": description, "spec": plain(entry.spec.model_dump())}
        write: Callable[..., Agent]
        if found is None:
            given = {"runner": entry.spec.runner.value, **_given(entry.spec)}
            outcome = created("agent", entry.name, {"description": description, "spec": given})
            write = partial(versioned.add, stored=AGENTS, actor=self._actor, name=entry.name)
        else:
            before = {"description": found.description, "spec": plain(found.spec.model_dump())}
            outcome = compared("agent", entry.name, before, after, **_at(found))
            write = partial(versioned.change, stored=AGENTS, actor=self._actor, before=found)
        return _step(outcome, partial(write, description=description, spec=entry.spec))

    def _task(self, place: str, entry: TaskEntry) -> Step:
        for fault in self._task_faults(entry.spec or TaskSpec()):
            self._fault(f"{place}.{_in_spec(fault.field)}", fault.message)
        found = self._stored(TASKS, entry.name)
        self._tasks[entry.name] = found
        spec = _either(entry.spec, found.spec if found else None, TaskSpec())
        require_repository_grant(self._actor, spec, None if found is None else found.spec)
        unknown = unknown_repository_secret(self._connection, self._actor, spec)
        if unknown is not None:
            self._fault(f"{place}.{REPOSITORY_FIELD}", unknown)
        agent, agent_spec = self._agent_of(place, entry)
        if agent_spec is not None:
            self._check_prompt(place, agent_spec, spec)
        description = _either(entry.description, found.description if found else None, "")
        active = _either(entry.active, found.active if found else None, True)  # noqa: FBT003 - its value
        top = {"agent": agent, "description": description, "active": active}
        write: Callable[..., Task]
        if found is None:
            outcome = created("task", entry.name, {**top, "spec": _given(spec)})
            write = partial(add_task, actor=self._actor, name=entry.name)
        else:
            before = {
                "agent": found.agent_name,
                "description": found.description,
                "active": found.active,
                "spec": plain(found.spec.model_dump()),
            }
            after = {**top, "spec": plain(spec.model_dump())}
            outcome = compared("task", entry.name, before, after, **_at(found))
            write = partial(change_task, actor=self._actor, task=found)
        values = {"agent": entry.agent, "description": description, "active": active}
        return _step(outcome, partial(write, spec=spec, **values))

    def _check_prompt(self, place: str, agent: AgentSpec, spec: TaskSpec) -> None:
        try:
            check_prompt(agent, spec)
        except InvalidInputError as error:
            self._fault(f"{place}.spec.prompt", error.message)

    def _agent_of(self, place: str, entry: TaskEntry) -> tuple[str, AgentSpec | None]:
        """Return name and specification of a task's agent, which the document may create."""
        if entry.agent in self._agents:
            return entry.agent, self._agents[entry.agent]
        try:
            agent = versioned.get(self._connection, AGENTS, self._actor, entry.agent)
        except NotFoundError:
            self._fault(
                f"{place}.agent",
                f"there is no agent {entry.agent!r}; add it to the document's agents or correct "
                "its name",
            )
            return entry.agent, None
        return agent.name, agent.spec

    def _budgets(self, entries: Sequence[BudgetEntry]) -> Iterator[Step]:
        first: dict[tuple[object, str], int] = {}
        for index, entry in enumerate(entries):
            place = f"budgets.{index}"
            scope = BudgetScope.TASK if entry.user_id is None else BudgetScope.USER
            subject_id = entry.user_id if entry.task is None else self._task_of(place, entry.task)
            if scope is BudgetScope.USER and not self._is_user(subject_id):
                self._fault(f"{place}.user_id", f"there is no user {subject_id}; correct the id")
            earlier = first.setdefault((subject_id or entry.task, entry.period), index)
            if earlier != index:
                self._fault(
                    place,
                    f"the budget of {entry.name} is in the document twice, first as "
                    f"budgets.{earlier}; remove one of them",
                )
            yield self._budget(entry, scope, subject_id)

    def _is_user(self, user_id: UUID | None) -> bool:
        return user_id is not None and accounts.user(self._connection, user_id) is not None

    def _task_of(self, place: str, reference: str) -> UUID | None:
        """Return the id of a budget's task; None if the document creates the task."""
        if reference in self._tasks:
            found = self._tasks[reference]
            return None if found is None else found.id
        try:
            return versioned.get(self._connection, TASKS, self._actor, reference).id
        except NotFoundError:
            self._fault(
                f"{place}.task",
                f"there is no task {reference!r}; add it to the document's tasks or correct its "
                "name",
            )
            return None

    def _budget(self, entry: BudgetEntry, scope: BudgetScope, subject_id: UUID | None) -> Step:
        found = None if subject_id is None else budget_of(
            self._connection, subject_id, entry.period
        )  # fmt: skip
        after = plain(entry.budget.model_dump())
        if found is None:
            outcome = created("budget", entry.name, after)
        else:
            before = plain(found.budget.model_dump())
            outcome = compared("budget", entry.name, before, after, id=found.id)

        def write(connection: Connection) -> Outcome:
            subject = (
                subject_id or versioned.get(connection, TASKS, self._actor, str(entry.task)).id
            )
            budget_id = put_budget(
                connection,
                self._actor,
                scope=scope,
                subject_id=subject,
                period=entry.period,
                budget=entry.budget,
            )
            return replace(outcome, id=budget_id)

        return Step(outcome, write)

    def _workflows(self) -> Iterator[Step]:
        for index, written in enumerate(self._document.workflows):
            workflow, faults = workflow_documents.check(written)
            for fault in faults:
                self._fault(_below(f"workflows.{index}", fault.field), fault.message)
            if workflow is not None:
                self.workflows[index] = workflow
        catalog = self._catalog()
        for index, workflow in self.workflows.items():
            for fault in spec_faults(workflow.spec, known=workflow.spec.steps, catalog=catalog):
                self._fault(_below(f"workflows.{index}", fault.field), fault.message)
            yield self._workflow(workflow, self._document.workflows[index])

    def check_stored(self) -> None:
        """Check the workflows once more, as they are checked when they are stored alone.

        Raises DocumentInvalidError for what can't be run.
        """
        for index, workflow in self.workflows.items():
            try:
                check_workflow(self._connection, self._actor, workflow.spec)
            except WorkflowInvalidError as error:
                places = [
                    (_below(f"workflows.{index}", field.removeprefix("spec.")), message)
                    for field, message in error.places
                ]
                raise DocumentInvalidError(places) from error

    def _catalog(self) -> Catalog:
        """Return the tasks and workflows that steps may run: those stored, and the document's."""
        wanted = [targets(workflow.spec) for workflow in self.workflows.values()]
        tasks: dict[str, TaskFacts] = {}
        inputs: dict[str, JsonObject] = {}
        for each in wanted:
            stored = catalog_of(self._connection, each, workspace=self._actor.workspace_id)
            tasks |= stored.tasks
            inputs |= stored.workflows
        for entry in self._document.tasks:
            if entry.spec is not None:
                tasks[entry.name] = TaskFacts(entry.spec.variables_schema, entry.spec.output_schema)
            elif self._tasks.get(entry.name) is None:
                tasks[entry.name] = TaskFacts()
        inputs |= {workflow.name: workflow.spec.input for workflow in self.workflows.values()}
        return Catalog(tasks, inputs)

    def _workflow(self, workflow: workflow_documents.Workflow, written: JsonObject) -> Step:
        found = self._stored(WORKFLOWS, workflow.name)
        described = workflow.description if "description" in written else None
        description = _either(described, found.description if found else None, "")
        write: Callable[..., Workflow]
        if found is None:
            given = {**_given(workflow.spec), "order": None}
            outcome = created(
                "workflow", workflow.name, {"description": description, "spec": given}
            )
            write = partial(versioned.add, stored=WORKFLOWS, actor=self._actor, name=workflow.name)
        else:
            before = {"description": found.description, "spec": plain(found.spec.model_dump())}
            after = {"description": description, "spec": plain(workflow.spec.model_dump())}
            outcome = compared("workflow", workflow.name, before, after, **_at(found))
            write = partial(versioned.change, stored=WORKFLOWS, actor=self._actor, before=found)
        return _step(outcome, partial(write, description=description, spec=workflow.spec))

    def task(self, reference: str) -> tuple[str, JsonObject] | None:
        """Return the name of a task and the schema of its variables, as the document leaves them.

        None if there is no such task, here or stored.
        """
        for entry in self._document.tasks:
            if entry.name == reference and entry.spec is not None:
                return entry.name, entry.spec.variables_schema
        if reference in self._tasks and self._tasks[reference] is None:
            return reference, {}
        try:
            found = versioned.get(self._connection, TASKS, self._actor, reference)
        except NotFoundError:
            return None
        return found.name, found.spec.variables_schema

    def workflow(self, reference: str) -> tuple[str, JsonObject] | None:
        """Return the name of a workflow and the schema of its input; see `task`."""
        for workflow in self.workflows.values():
            if workflow.name == reference:
                return workflow.name, workflow.spec.input
        try:
            found = versioned.get(self._connection, WORKFLOWS, self._actor, reference)
        except NotFoundError:
            return None
        return found.name, found.spec.input

    def _fault(self, field: str, message: str) -> None:
        self.faults.append(Fault(field, message))


def _either(wanted: _T | None, stored: _T | None, default: _T) -> _T:
    """Return the first that is not None."""
    if wanted is not None:
        return wanted
    return default if stored is None else stored


def _given(spec: object) -> JsonObject:
    """Return the values of a specification that are not defaults."""
    return plain(spec.model_dump(exclude_defaults=True))  # type: ignore[attr-defined, no-any-return]


def _in_spec(field: str | None) -> str:
    """Return the place of a fault within its entry; template faults have their own."""
    return field if field is not None and field.startswith("spec") else f"spec.{field or ''}"


def _below(place: str, field: str) -> str:
    return f"{place}.{field}" if field else place


def _at(stored: Agent | Task | Workflow) -> dict[str, Any]:
    return {"id": stored.id, "version": stored.version}


def _step(outcome: Outcome, write: Callable[[Connection], Agent | Task | Workflow]) -> Step:
    def write_outcome(connection: Connection) -> Outcome:
        return replace(outcome, **_at(write(connection)))

    return Step(outcome, write_outcome)
