"""Stores the steps of attempts, and starts the executions that they run."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TypeVar
from uuid import UUID

import structlog

from celeriac.db.catalog import TASKS
from celeriac.db.engine import Connection, Database
from celeriac.db.executions import children, lifecycle, steps
from celeriac.db.executions.create import Family
from celeriac.domain.accounts import Actor, Role
from celeriac.domain.errors import (
    AgentMisconfiguredError,
    ConflictError,
    LeaseLostError,
    NotFoundError,
    StepsChangedError,
    TreeLimitError,
)
from celeriac.domain.executions.model import QueuedMessage, SubmitRequest
from celeriac.domain.executions.options import NO_OPTIONS, RunOptions, TreeBudget
from celeriac.domain.executions.states import Held
from celeriac.domain.executions.steps import MAX_DEPTH, Child, NewChildren, NewStep, StoredStep
from celeriac.domain.executions.triggers import TriggerType
from celeriac.domain.labels import NO_LABELS
from celeriac.domain.workflows.records import ResultsPage
from celeriac.kit.ids import uuid7
from celeriac.kit.json_types import JsonValue
from celeriac.kit.words import counted
from celeriac.services.catalog.specs import SpecCache
from celeriac.services.executions.attempt import Attempt, StopReason
from celeriac.services.executions.dispatch import Dispatch
from celeriac.services.executions.run_results import read_results
from celeriac.services.executions.submit import STALE_SPEC_TRIES, check_all
from celeriac.services.ports import Job, LiveEvents
from celeriac.services.retrying import retry_statement, retry_until_stored_in

logger = structlog.get_logger(__name__)

T = TypeVar("T")

_PAGE = 1_000
_RESULTS_PAGE = 100
_DATABASE_SECONDS = 60.0


class StepStore:
    """What stores the steps of all attempts of a process. Safe to share between threads."""

    def __init__(
        self,
        database: Database,
        live: LiveEvents,
        specs: SpecCache,
        dispatch: Dispatch,
        *,
        tree_executions: int,
    ) -> None:
        """`tree_executions` may be started below the first execution of a tree."""
        self.database = database
        self.live = live
        self.specs = specs
        self.dispatch = dispatch
        self.tree_executions = tree_executions


class AttemptSteps:
    """The `StoredSteps` of one attempt; see there for the contracts of its methods."""

    def __init__(self, store: StepStore, attempt: Attempt, job: Job) -> None:
        self._store = store
        self._database = store.database
        self._attempt = attempt
        self._lease = attempt.lease
        self._job = job

    async def load(self) -> list[StoredStep]:
        """Return all stored steps, in their order."""
        found: list[StoredStep] = []
        while True:
            after = found[-1].number if found else 0
            page = await self._read(
                partial(steps.load, execution_id=self._lease.execution_id, after=after, limit=_PAGE)
            )
            found += page
            if len(page) < _PAGE:
                return found

    async def result(self, number: int) -> JsonValue:
        """Return the result of a stored step."""
        return await self._read(
            partial(steps.result, execution_id=self._lease.execution_id, number=number)
        )

    async def store(self, step: NewStep) -> float | None:
        """Store a step; return the seconds until the end of a sleep."""
        self._attempt.expect_rows()

        def store() -> tuple[bool, float | None]:
            with _place_of(step), self._database.autocommit() as connection:
                return steps.store(connection, self._lease, step)

        held, seconds = await retry_until_stored_in(
            self._database.threads, store, seconds=_DATABASE_SECONDS
        )
        if not held:
            raise LeaseLostError("This worker no longer owns the attempt.")
        self._store.live.changed([self._lease.execution_id])
        return seconds

    async def start(self, number: int, new: NewChildren, step: NewStep | None) -> None:
        """Start children of the step with this number, after storing `step`, all in one commit."""
        self._attempt.expect_rows()
        ids = [uuid7() for _ in new.places]
        tries = 0

        def start() -> Sequence[QueuedMessage]:
            nonlocal tries
            while True:
                tries += 1
                try:
                    return self._start(number, new, step, ids, fresh=tries > 1)
                except lifecycle.StaleSpecError:
                    if tries > STALE_SPEC_TRIES:
                        raise ConflictError("The task is being changed; try again.") from None

        messages = await retry_until_stored_in(
            self._database.threads, start, seconds=_DATABASE_SECONDS
        )
        send = partial(self._store.dispatch.send, messages)
        await self._database.threads.run(send if messages else self._store.dispatch.try_to_send)
        for execution_id in ids:
            logger.info(
                "execution.child_created",
                execution_id=execution_id,
                parent_id=self._lease.execution_id,
            )

    def _start(
        self,
        number: int,
        new: NewChildren,
        step: NewStep | None,
        ids: Sequence[UUID],
        *,
        fresh: bool,
    ) -> Sequence[QueuedMessage]:
        job, lease = self._job, self._lease
        assert job.workspace_id is not None
        assert job.owner_id is not None
        with self._database.autocommit() as connection:
            task_id = TASKS.id_of_name(connection, new.task, workspace=job.workspace_id)
            if task_id is None:
                raise AgentMisconfiguredError(
                    f"There is no task {new.task!r} in the workspace of this execution.",
                    field="task",
                )
            self._check_depth(connection)
        try:
            spec = self._store.specs.current(task_id, workspace=job.workspace_id, fresh=fresh)
        except NotFoundError as error:
            raise AgentMisconfiguredError(error.message, field="task") from error
        check_all(spec, new.variables, NO_LABELS, [NO_OPTIONS] * len(ids), batch=len(ids) > 1)
        actor = Actor(
            user_id=job.owner_id,
            name=f"execution {lease.execution_id}",
            role=Role.OPERATOR,
            workspace_id=job.workspace_id,
            request_id=job.request_id,
        )
        single = len(ids) == 1 and new.parallel is None
        with self._database.transaction() as connection:
            parent = children.expect(connection, lease, step=number, execution_ids=ids)
            if parent is None or parent.cancelled or parent.stored:
                connection.rollback()
                if parent is None:
                    raise LeaseLostError("This worker no longer owns the attempt.")
                if parent.cancelled:
                    self._attempt.stop(StopReason.CANCELLED)
                    raise LeaseLostError("The execution is being cancelled.")
                return ()
            if step is not None:
                with _place_of(step):
                    steps.store(connection, lease, step)
            request = SubmitRequest(
                task_id=task_id,
                priority=parent.priority if new.priority is None else new.priority,
                queue=new.queue,
                trigger_type=TriggerType.WORKFLOW,
                options=RunOptions(tree=self._shared_budget()),
            )
            made = lifecycle.NewExecutions(
                spec,
                request,
                ids,
                new.variables,
                family=Family(lease.execution_id, number, parent.root_id),
                held=None if new.parallel is None else Held.PARALLEL,
            )
            window = self._store.dispatch.capacity(made.queue) if single else 0
            messages = lifecycle.create(connection, made, actor, window=window)
            children.add(
                connection,
                lease.execution_id,
                step=number,
                items=new.places,
                execution_ids=ids,
            )
            if new.parallel is not None:
                children.release(connection, parent_id=lease.execution_id)
            self._count_tree(connection, parent.root_id, len(ids))
            return messages

    def _count_tree(self, connection: Connection, root_id: UUID, number: int) -> None:
        most = self._store.tree_executions
        if children.count_tree(connection, root_id, number) > most:
            raise TreeLimitError(
                f"The tree of the execution {root_id} may start {counted(most, 'execution')}, and "
                "this step would exceed that. A task that runs itself needs a condition that ends "
                "this; for larger trees set CELERIAC_WORKER_TREE_EXECUTIONS."
            )

    def _shared_budget(self) -> TreeBudget | None:
        """Return the budget of the tree: that of the first execution that has one."""
        job = self._job
        if job.options.tree is not None or job.budget is None:
            return job.options.tree
        return TreeBudget(execution_id=job.execution_id, budget=job.budget)

    def _check_depth(self, connection: Connection) -> None:
        depth = children.depth(connection, self._lease.execution_id, most=MAX_DEPTH)
        if depth >= MAX_DEPTH:
            raise TreeLimitError(
                f"The tree of executions has {MAX_DEPTH} generations already. A task that runs "
                "itself needs a condition that ends this."
            )

    async def children(self, number: int) -> dict[int, Child]:
        """Return the children of a step by their items, without results."""
        found: dict[int, Child] = {}
        after = -1
        while True:
            page = await self._read(
                partial(
                    children.of_step,
                    parent_id=self._lease.execution_id,
                    step=number,
                    after=after,
                    limit=_PAGE,
                )
            )
            found |= page
            if len(page) < _PAGE:
                return found
            after = max(page)

    async def results_of_step(self, step: str, *, run_id: UUID | None, after: int) -> ResultsPage:
        """Return a page of the results of a step of the workflow's run."""
        return await self._read(
            partial(
                read_results,
                execution_id=self._lease.execution_id,
                step=step,
                run_id=run_id,
                after=after,
            )
        )

    async def results(self, number: int, *, most_bytes: int) -> dict[int, Child] | None:
        """Return the children of a step by their items, with results; None if these are larger."""
        found: dict[int, Child] = {}
        after, room = -1, most_bytes
        while True:
            page, size = await self._read(
                partial(
                    children.results_of_step,
                    parent_id=self._lease.execution_id,
                    step=number,
                    after=after,
                    limit=_RESULTS_PAGE,
                    room=room,
                )
            )
            if size > room:
                return None
            found |= page
            if len(page) < _RESULTS_PAGE:
                return found
            after, room = max(page), room - size

    async def _read(self, work: Callable[[Connection], T]) -> T:
        self._attempt.check_lease()
        return await retry_statement(self._database, work, seconds=_DATABASE_SECONDS)


@contextmanager
def _place_of(step: NewStep) -> Iterator[None]:
    """Raise StepsChangedError if another step has this one's place: two calls raced for it."""
    try:
        yield
    except steps.PlaceTakenError:
        where = f"at the place {step.path}" if step.path else "of this name"
        raise StepsChangedError(
            f"The step {step.name!r} can't be stored: this attempt has stored another step "
            f"{where} already. Start calls that run at the same time with ctx.gather, and don't "
            "call a step's function again while an earlier call of it still runs."
        ) from None
