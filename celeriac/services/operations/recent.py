"""Recent tasks: executions and plain Celery tasks of a workspace, in one list."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from types import MappingProxyType
from typing import Any, Protocol
from uuid import UUID

from celeriac.db import plain_tasks
from celeriac.db import sitrep as rows
from celeriac.db.engine import Connection
from celeriac.db.executions import queries
from celeriac.domain.executions.model import Execution, ExecutionFilter
from celeriac.domain.executions.states import (
    SIMPLE,
    CeleryState,
    SimpleStatus,
    Status,
    celery_state,
)
from celeriac.domain.plain_tasks import RecentRun
from celeriac.domain.sitrep import (
    RecentTask,
    RecentTasks,
    RecentWanted,
    TaskKind,
    friendly_name,
)
from celeriac.services.operations.celery_tasks import CeleryTaskState
from celeriac.services.operations.sitrep_parts import shown

_STATUSES: Mapping[SimpleStatus, Sequence[Status]] = MappingProxyType(
    {
        SimpleStatus.PENDING: (Status.PENDING, Status.QUEUED),
        # those that wait for another attempt are in progress too
        SimpleStatus.IN_PROGRESS: (
            Status.RUNNING, Status.WAITING, Status.PENDING, Status.QUEUED,
        ),
        SimpleStatus.COMPLETED: (Status.COMPLETED,),
        SimpleStatus.FAILED: (Status.FAILED,),
        SimpleStatus.CANCELLED: (Status.CANCELLED,),
    }
)  # fmt: skip


class Results(Protocol):
    """Celery's result backend; implemented in the adapters."""

    def states(self, task_ids: Sequence[str]) -> Mapping[str, CeleryTaskState | None]:
        """Return the stored states in one round trip; None for what can't be read.

        Raises UnavailableError.
        """
        ...


class Recent:
    """Reads recent tasks. Safe to share between threads."""

    def __init__(self, results: Results, *, worker_seconds: float) -> None:
        """A worker that has not reported for `worker_seconds` is taken for gone."""
        self._results = results
        self._worker_seconds = worker_seconds

    def page(
        self, connection: Connection, workspace: UUID, wanted: RecentWanted, *, plain: bool = False
    ) -> RecentTasks:
        """Return a page, with `plain` also of the plain Celery tasks that no workspace has sent.

        The states of those that were sent over HTTP are None until `with_states`, unless a worker
        has recorded an end. With a status a page may be shorter than its limit although there are
        more.
        """
        limit = wanted.limit + 1
        found: list[RecentTask] = []
        if wanted.type is not TaskKind.CELERY:
            statuses = _STATUSES[wanted.status] if wanted.status else ()
            page = queries.find(
                connection,
                ExecutionFilter(workspace_id=workspace, statuses=tuple(statuses)),
                before=wanted.before,
                limit=limit,
            )
            found += map(_of_execution, page.items)
        if wanted.type is not TaskKind.EXECUTION:
            sent = rows.sent_tasks(
                connection, workspace_id=workspace, before=wanted.before, limit=limit
            )
            found += map(_of_celery, sent)
        if plain and wanted.type is not TaskKind.EXECUTION:
            runs = plain_tasks.recent(
                connection,
                status=wanted.status,
                before=wanted.before,
                limit=limit,
                within_seconds=self._worker_seconds,
            )
            found += map(_of_run, runs)
        found.sort(key=lambda each: each.id, reverse=True)
        kept = found[: wanted.limit]
        items = [each for each in kept if wanted.status in (None, each.status) or not each.recorded]
        return RecentTasks(
            items=items, next_cursor=kept[-1].id if len(found) > wanted.limit else None
        )

    def needs_states(self, found: RecentTasks) -> bool:
        """Whether there are plain Celery tasks among them whose state is not recorded."""
        return any(not each.recorded for each in found.items)

    def with_states(self, found: RecentTasks, status: SimpleStatus | None) -> RecentTasks:
        """Return them with the states of plain Celery tasks; only those in `status`, if given.

        Raises UnavailableError.
        """
        ids = [each.task_id for each in found.items if not each.recorded]
        states = self._results.states(ids)
        stated = [
            each if each.recorded else _stated(each, states[each.task_id]) for each in found.items
        ]
        return replace(found, items=[each for each in stated if status in (None, each.status)])


def _of_execution(found: Execution) -> RecentTask:
    return RecentTask(
        id=found.id,
        type=TaskKind.EXECUTION,
        task_id=str(found.id),
        name=friendly_name(found.task_name),
        status=SIMPLE[celery_state(found.status, attempt=found.attempt)],
        description=f"Execution of the task {found.task_name}, in the queue {found.queue}",
        started_at=found.started_at,
        completed_at=found.completed_at,
        duration_seconds=found.duration_seconds,
        error_message=shown(found.error_message),
        queue=found.queue,
    )


def _of_celery(row: tuple[Any, ...]) -> RecentTask:
    audit_id, task_id, name, at, status, queue, started, changed, error = row
    return RecentTask(
        id=audit_id,
        type=TaskKind.CELERY,
        task_id=task_id,
        name=friendly_name(name),
        status=SimpleStatus(status) if status else None,
        description=f"Celery task {name}, sent at {at:%Y-%m-%d %H:%M:%S} UTC",
        started_at=started,
        completed_at=changed,
        duration_seconds=_seconds(started, changed),
        error_message=shown(error),
        queue=queue,
        recorded=status is not None,
    )


def _of_run(found: RecentRun) -> RecentTask:
    run = found.run
    runs = run.status is SimpleStatus.IN_PROGRESS
    gone = runs and not found.alive
    return RecentTask(
        id=run.id,
        type=TaskKind.CELERY,
        task_id=run.task_id,
        name=friendly_name(run.name),
        status=None if gone else run.status,
        description=f"Celery task {run.name} of the worker {found.hostname}",
        started_at=run.started_at,
        completed_at=None if runs else run.changed_at,
        duration_seconds=None if runs else _seconds(run.started_at, run.changed_at),
        error_message="The worker that began it does not report." if gone else run.error_message,
        queue=run.queue,
    )


def _seconds(started: datetime | None, ended: datetime | None) -> float | None:
    return None if started is None or ended is None else (ended - started).total_seconds()


def _stated(task: RecentTask, state: CeleryTaskState | None) -> RecentTask:
    if state is None:
        return replace(task, error_message="What is stored as its result is not Celery's.")
    started: datetime | None = state.started_at
    return replace(
        task,
        status=SIMPLE.get(state.state, SimpleStatus.PENDING),
        started_at=started,
        completed_at=None if state.state is CeleryState.STARTED else state.completed_at,
        error_message=shown(state.error_message),
    )
