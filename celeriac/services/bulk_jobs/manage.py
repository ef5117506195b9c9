"""Bulk jobs as people make, start, read and stop them. The keeper works on them."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from uuid import UUID

import structlog

from celeriac.db import audit, bulk_jobs, engine
from celeriac.db.engine import Connection, Database
from celeriac.db.executions import queries
from celeriac.domain.accounts import Actor, Role
from celeriac.domain.bulk_actions import (
    ACTIONS,
    BulkAction,
    BulkOutcome,
    BulkStatus,
    BulkTransition,
    Reason,
    reason_of,
)
from celeriac.domain.bulk_jobs import (
    PREVIEW_SECONDS,
    BulkItem,
    BulkJob,
    BulkPreview,
    NewBulkJob,
)
from celeriac.domain.errors import ConflictError, ForbiddenError, InvalidInputError
from celeriac.domain.executions.model import Execution, ExecutionFilter
from celeriac.domain.executions.states import LIVE, Status
from celeriac.domain.paging import Page, read_cursor
from celeriac.kit.ids import uuid7
from celeriac.kit.json_types import JsonObject
from celeriac.services.bulk_jobs.actions import Performer
from celeriac.services.reading import present, read_page

logger = structlog.get_logger(__name__)

_KIND = "bulk_jobs"
_ITEMS = "bulk_job_items"
_PAGE = 10_000
"""Executions that are selected with one statement."""
_COUNTED = 10_000
_LOOKED_AT = 100
_SAMPLE = 10
_PREVIEWS = 10
"""Previews that a user has in a workspace: a new one replaces the oldest."""
_ACTIVE = 20
"""Jobs of a workspace that have not ended."""


class BulkJobs:
    """The bulk jobs of workspaces. Safe to share between threads."""

    def __init__(self, database: Database, performers: Mapping[BulkAction, Performer]) -> None:
        self._database = database
        self._performers = performers

    def preview(self, actor: Actor, new: NewBulkJob) -> BulkPreview:
        """Select the executions of a job, and say what it would do. Nothing is changed.

        The newest that match, up to `limit`. A filter without statuses selects those that the
        action is for; one with ids selects these, whatever their status is. Raises ForbiddenError,
        and InvalidInputError for a filter that selects everything or what the action can't change.
        """
        actor.require(Role.OPERATOR)
        wanted = replace(_narrowed(new), workspace_id=actor.workspace_id)
        with self._database.autocommit() as connection:
            scope, more = _selected(connection, wanted, new.limit)
            counts = bulk_jobs.statuses(connection, scope[:_COUNTED])
        job_id = uuid7()
        looked, unfit, sample = self._looked(actor, new, scope)
        with self._database.transaction() as connection:
            bulk_jobs.add(connection, job_id, actor, new, scope, more=more)
            bulk_jobs.drop_previews(
                connection,
                workspace_id=actor.workspace_id,
                owner_id=actor.user_id,
                kept=_PREVIEWS,
            )
            job = _found(connection, actor, job_id)
        expires_at = job.created_at + timedelta(seconds=PREVIEW_SECONDS)
        return BulkPreview(job, expires_at, counts, sample, looked, unfit)

    def _looked(
        self, actor: Actor, new: NewBulkJob, scope: Sequence[UUID]
    ) -> tuple[int, Mapping[UUID, Reason], Sequence[Execution]]:
        """Return how many were checked, which can't be changed, and a sample."""
        first = scope[:_LOOKED_AT]
        if not first:
            return 0, {}, ()
        performer = self._performers[new.action]
        wanted = ExecutionFilter(workspace_id=actor.workspace_id, ids=first)
        with self._database.autocommit() as connection:
            rows = queries.find(
                connection, wanted, before=None, limit=len(first), include=performer.include
            ).items
        takes = ACTIONS[new.action].takes
        unfit = {
            each.id: reason_of(new.action, each.status) for each in rows if each.status not in takes
        }
        fit = [each for each in rows if each.id not in unfit]
        looked, others = performer.unfit(actor, new, fit)
        if looked < len(fit):  # it took too long
            last = fit[looked - 1].id
            rows = [each for each in rows if each.id >= last]
        return len(rows), unfit | dict(others), rows[:_SAMPLE]

    def start(self, actor: Actor, job_id: UUID) -> BulkJob:
        """Start a preview: exactly the executions that it has selected are changed.

        Starting a job again changes nothing. Raises ForbiddenError, NotFoundError, and
        ConflictError if the preview has expired or the workspace has too many jobs.
        """
        actor.require(Role.OPERATOR)
        with self._database.transaction() as connection:
            job = _found(connection, actor, job_id, lock=True)
            if job.status is not BulkStatus.PREVIEW:
                return job
            if job.owner_id != actor.user_id:
                raise ForbiddenError(
                    f"{job.created_by} has made this preview; make your own to start a job."
                )
            if engine.clock(connection) > job.created_at + timedelta(seconds=PREVIEW_SECONDS):
                raise ConflictError("The preview has expired; make a new one.")
            if bulk_jobs.active(connection, actor.workspace_id) >= _ACTIVE:
                raise ConflictError(
                    f"The workspace has {_ACTIVE} bulk jobs that have not ended, which is the "
                    "most; wait for one to end, or stop one."
                )
            bulk_jobs.move(connection, job_id, BulkTransition.START)
            details = {"action": job.action.value, "arguments": job.arguments,
                       "filter": job.filter, "total": job.total}  # fmt: skip
            audit.record(connection, actor, "bulk_job.start", [job_id], details=details)
            started = _found(connection, actor, job_id)
        logger.info("bulk_job.started", bulk_job_id=job_id, action=job.action, total=job.total)
        return started

    def stop(self, actor: Actor, job_id: UUID) -> BulkJob:
        """Stop a job after its present batch; what was done stays.

        One that has ended does not change. Raises ForbiddenError, NotFoundError, and ConflictError
        for a preview.
        """
        actor.require(Role.OPERATOR)
        with self._database.transaction() as connection:
            job = _found(connection, actor, job_id, lock=True)
            if job.status is BulkStatus.PREVIEW:
                raise ConflictError("The job is a preview: nobody has started it.")
            if not bulk_jobs.move(connection, job_id, BulkTransition.STOP, stopped_by=actor.name):
                return job
            details = {"position": job.position, "total": job.total}
            audit.record(connection, actor, "bulk_job.stop", [job_id], details=details)
            stopped = _found(connection, actor, job_id)
        logger.info("bulk_job.stopped", bulk_job_id=job_id, position=job.position)
        return stopped

    def get(self, actor: Actor, job_id: UUID) -> BulkJob:
        """Return a job, or a preview. Raises NotFoundError."""
        with self._database.autocommit() as connection:
            return _found(connection, actor, job_id)

    def find(self, actor: Actor, *, cursor: str | None = None, limit: int = 50) -> Page[BulkJob]:
        """Return a page of the started jobs, the newest first. Raises CursorInvalidError."""

        def find(connection: Connection, *, before: UUID | None, limit: int) -> list[BulkJob]:
            return bulk_jobs.find(
                connection, workspace=actor.workspace_id, before=before, limit=limit
            )

        return read_page(self._database, _KIND, cursor, limit, find)

    def items(
        self,
        actor: Actor,
        job_id: UUID,
        outcomes: Sequence[BulkOutcome] = (),
        *,
        cursor: str | None = None,
        limit: int = 50,
    ) -> Page[BulkItem]:
        """Return a page of what became of a job's executions, the newest of them first.

        Raises NotFoundError, CursorInvalidError.
        """
        before = read_cursor(_ITEMS, cursor)
        with self._database.autocommit() as connection:
            _found(connection, actor, job_id)
            found = bulk_jobs.find_items(
                connection, job_id, outcomes=outcomes, before=before, limit=limit + 1
            )
        return Page.cut(found, limit=limit, kind=_ITEMS, key=lambda each: each.execution_id)


def _found(connection: Connection, actor: Actor, job_id: UUID, *, lock: bool = False) -> BulkJob:
    found = bulk_jobs.get(connection, job_id, workspace=actor.workspace_id, lock=lock)
    return present(found, "bulk job", job_id)


def _narrowed(new: NewBulkJob) -> ExecutionFilter:
    """Return the filter with the statuses of the action. Raises InvalidInputError."""
    rule, wanted = ACTIONS[new.action], new.wanted
    if not new.given:
        raise InvalidInputError(
            "filter is empty and would select everything; name at least one field, such as status.",
            field="filter",
        )
    _check_arguments(new.action, new.arguments)
    if wanted.ids:
        return wanted
    others = [each for each in wanted.statuses if each not in rule.takes]
    if others:
        takes = ", ".join(each for each in Status if each in rule.takes)
        raise InvalidInputError(
            f"An execution that is {others[0]} can't {rule.done}; name one or several of {takes}.",
            field="filter.status",
        )
    if rule.takes == LIVE:
        return replace(wanted, cancellable=True)
    if wanted.queue is not None:
        raise InvalidInputError(
            "queue selects only executions that have not ended; leave it out.",
            field="filter.queue",
        )
    if wanted.statuses or rule.selects == frozenset(Status):
        return wanted
    return replace(wanted, statuses=sorted(rule.selects))


def _check_arguments(action: BulkAction, given: JsonObject) -> None:
    needed = ACTIONS[action].argument
    if needed is not None and needed not in given:
        raise InvalidInputError(f"{action} needs {needed}.", field=needed)
    for name in given:
        if name != needed:
            raise InvalidInputError(f"{action} does not take {name}; leave it out.", field=name)


def _selected(
    connection: Connection, wanted: ExecutionFilter, limit: int
) -> tuple[list[UUID], bool]:
    """Return the newest executions that match, up to `limit`, and whether there are more.

    Those that are created meanwhile are not among them.
    """
    found: list[UUID] = []
    while True:
        size = min(_PAGE, limit + 1 - len(found))
        before = found[-1] if found else None
        page = queries.find_ids(connection, wanted, before=before, limit=size)
        found += page
        if len(page) < size or len(found) > limit:
            return found[:limit], len(found) > limit
