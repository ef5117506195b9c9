"""The keeper's part of bulk jobs: it works on them in small batches."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from uuid import UUID

import structlog

from celeriac.db import accounts, bulk_jobs, workspaces
from celeriac.db.engine import Connection, Database
from celeriac.db.executions import queries
from celeriac.db.executions.lifecycle import StaleSpecError
from celeriac.domain.accounts import Actor, Role
from celeriac.domain.bulk_actions import (
    BulkAction,
    BulkOutcome,
    BulkStatus,
    BulkTransition,
    reason_of,
)
from celeriac.domain.bulk_jobs import PREVIEW_SECONDS, BulkItem, BulkJob
from celeriac.domain.errors import (
    BusyError,
    DatabaseUnavailableError,
    ForbiddenError,
    UnavailableError,
)
from celeriac.kit.json_types import storable_text
from celeriac.logs.redact import clip
from celeriac.services.bulk_jobs.actions import Applied, Batch, Performer
from celeriac.services.executions.submit import STALE_SPEC_TRIES

logger = structlog.get_logger(__name__)

_WORKSPACES = 20
_BATCH = 100
_LONGEST_MESSAGE = 500
_INTERNAL = "internal_error"


class WorkOnBulkJobs:
    """Works on started jobs, batch by batch, in turns between workspaces.

    A batch is one transaction: its changes, their outcomes and the position of the job are stored
    together or not at all. So nothing is done twice, or missed, when a keeper dies or several run.
    """

    def __init__(
        self,
        database: Database,
        performers: Mapping[BulkAction, Performer],
        *,
        batch: int = _BATCH,
    ) -> None:
        self._database = database
        self._performers = performers
        self._batch = batch

    def __call__(self) -> int:
        """Work on a batch of a job of each workspace; return how many executions were handled.

        Also deletes previews that have expired. Raises DatabaseUnavailableError.
        """
        with self._database.autocommit() as connection:
            bulk_jobs.expire_previews(connection, seconds=PREVIEW_SECONDS)
            due = bulk_jobs.due(connection, actions=self._performers, limit=_WORKSPACES)
        return sum(map(self._turn, due))

    def _turn(self, job_id: UUID) -> int:
        """Work on a batch of a job; leave it for later if the database is busy with its rows."""
        try:
            return self._next(job_id, self._batch)
        except UnavailableError as error:
            if type(error) is DatabaseUnavailableError:
                raise
            logger.warning("bulk_job.waits", bulk_job_id=job_id, error=error.message)
        except Exception:
            # one execution may be the reason: the others must not wait for it
            logger.exception("bulk_job.batch_failed", bulk_job_id=job_id)
            with self._left_for_later(job_id):
                return self._singly(job_id)
        with self._database.autocommit() as connection:
            bulk_jobs.waited(connection, job_id)
        return 0

    @contextmanager
    def _left_for_later(self, job_id: UUID) -> Iterator[None]:
        """Let no error of a job hold up those of others."""
        try:
            yield
        except UnavailableError as error:
            logger.warning("bulk_job.waits", bulk_job_id=job_id, error=error.message)
        except Exception:
            logger.exception("bulk_job.not_worked_on", bulk_job_id=job_id)

    def _singly(self, job_id: UUID) -> int:
        """Work on the executions of a batch one by one; those that can't be changed are failed."""
        total = 0
        for _ in range(self._batch):
            try:
                done = self._next(job_id, 1)
            except UnavailableError:
                raise
            except Exception as error:
                logger.exception("bulk_job.item_failed", bulk_job_id=job_id)
                done = self._failed(job_id, error)
            total += done
            if not done:
                break
        return total

    def _failed(self, job_id: UUID, error: Exception) -> int:
        """Record that the next execution of a job could not be changed."""
        with self._database.transaction() as connection:
            job = bulk_jobs.get(connection, job_id, workspace=None)
            if job is None or not bulk_jobs.lock(connection, job_id, position=job.position):
                return 0
            message = f"{type(error).__name__}; the log of the keeper has more."
            items = [
                BulkItem(each, BulkOutcome.FAILED, _INTERNAL, message)
                for each in bulk_jobs.next_ids(connection, job_id, limit=1)
            ]
            _record(connection, job, items)
        return len(items)

    def _next(self, job_id: UUID, limit: int) -> int:
        """Work on up to `limit` executions of a job; return how many were handled."""
        with self._database.autocommit() as connection:
            job = bulk_jobs.get(connection, job_id, workspace=None)
            if job is None or job.status.terminal:
                return 0
            if job.status is BulkStatus.PENDING:
                bulk_jobs.move(connection, job_id, BulkTransition.BEGIN)
            ids = bulk_jobs.next_ids(connection, job_id, limit=limit)
            if not ids:
                bulk_jobs.move(connection, job_id, BulkTransition.COMPLETE)
                return 0
        try:
            actor = self._actor(job)
        except ForbiddenError as error:
            self._end(job, error.message)
            return 0
        for attempt in range(STALE_SPEC_TRIES):
            batch = self._performers[job.action].prepare(actor, job, ids, fresh=attempt > 0)
            with suppress(StaleSpecError):
                return self._work(job, batch)
        raise BusyError("A task is being changed.")

    def _work(self, job: BulkJob, batch: Batch) -> int:
        with self._database.transaction() as connection:
            if not bulk_jobs.lock(connection, job.id, position=job.position):
                return 0
            applied = batch.apply(connection)
            ended = _record(connection, job, _outcomes(connection, job, batch, applied))
        if applied.done:
            applied.announce()
        if ended:
            logger.info("bulk_job.completed", bulk_job_id=job.id, total=job.total)
        return len(batch.ids)

    def _actor(self, job: BulkJob) -> Actor:
        """Return the user for whom a job works, with no more rights than they had, and have.

        Raises ForbiddenError.
        """
        with self._database.autocommit() as connection:
            role = workspaces.active_role(connection, job.workspace_id, job.owner_id)
            user = accounts.user(connection, job.owner_id)
        if role is None or user is None:
            raise ForbiddenError(f"{job.created_by} is no member of the workspace any more.")
        role = role.limited_to(job.role)
        actor = Actor(job.owner_id, user.name, role, job.workspace_id, request_id=job.request_id)
        actor.require(Role.OPERATOR)
        return actor

    def _end(self, job: BulkJob, error: str) -> None:
        with self._database.autocommit() as connection:
            bulk_jobs.move(connection, job.id, BulkTransition.FAIL, error=error)
        logger.warning("bulk_job.failed", bulk_job_id=job.id, error=error)


def _outcomes(
    connection: Connection, job: BulkJob, batch: Batch, applied: Applied
) -> list[BulkItem]:
    """Return what became of each execution of a batch."""
    done, unfit = applied.done, {**batch.unfit, **applied.refused}
    left = [each for each in batch.ids if each not in done and each not in unfit]
    statuses = queries.statuses(connection, left, workspace=job.workspace_id) if left else {}

    def item(execution_id: UUID) -> BulkItem:
        if execution_id in done:
            made = done[execution_id]
            return BulkItem(execution_id, BulkOutcome.DONE, new_execution_id=made)
        reason = unfit.get(execution_id) or reason_of(job.action, statuses.get(execution_id))
        message = storable_text(clip(reason.message, _LONGEST_MESSAGE))
        return BulkItem.skipped(execution_id, replace(reason, message=message))

    return list(map(item, batch.ids))


def _record(connection: Connection, job: BulkJob, items: Sequence[BulkItem]) -> bool:
    """Store outcomes; return whether the job has ended with them."""
    bulk_jobs.record(connection, job, items)
    if job.position + len(items) < job.total:
        return False
    return bulk_jobs.move(connection, job.id, BulkTransition.COMPLETE)
