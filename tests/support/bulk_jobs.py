"""Bulk jobs of a workspace, and their keeper."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

from celeriac.db.engine import Database
from celeriac.domain.accounts import Actor
from celeriac.domain.bulk_actions import BulkAction, BulkOutcome, BulkStatus
from celeriac.domain.bulk_jobs import BulkItem, BulkJob, BulkPreview, NewBulkJob
from celeriac.domain.executions.model import ExecutionFilter, Failed, Failure
from celeriac.kit.json_types import JsonObject
from celeriac.services.bulk_jobs.actions import performers
from celeriac.services.bulk_jobs.manage import BulkJobs
from celeriac.services.bulk_jobs.work import WorkOnBulkJobs
from celeriac.services.catalog.specs import SpecCache
from celeriac.services.executions.repeat import Repeat
from celeriac.services.storage_paths import StoragePaths
from tests.support.core import Core
from tests.support.retention import places_in

FAILED = Failed(Failure("agent_failed", "No."))
CANCEL, RETRY = BulkAction.CANCEL, BulkAction.RETRY


NOWHERE = places_in(Path("/nowhere"))


class BulkDesk:
    """A workspace's bulk jobs, and their keeper."""

    def __init__(
        self,
        core: Core,
        database: Database | None = None,
        batch: int = 100,
        places: StoragePaths = NOWHERE,
    ) -> None:
        database = database or core.database
        self.core = core
        repeat = Repeat(database, SpecCache(database))
        self.performers = dict(performers(database, places, core.cancel, repeat, core.dispatch))
        self.jobs = BulkJobs(database, self.performers)
        self.work = WorkOnBulkJobs(database, self.performers, batch=batch)

    def preview(
        self,
        action: BulkAction = CANCEL,
        actor: Actor | None = None,
        limit: int = 1_000,
        arguments: JsonObject | None = None,
        **wanted: Any,
    ) -> BulkPreview:
        """Make a preview for all of the workspace's task, or what is `wanted`."""
        new = NewBulkJob(
            action=action,
            arguments=arguments or {},
            given={"some": "filter"},
            wanted=ExecutionFilter(**wanted or {"task_id": self.core.task}),
            limit=limit,
        )
        return self.jobs.preview(actor or self.core.actor, new)

    def started(self, action: BulkAction = CANCEL, **given: Any) -> UUID:
        """Preview and start a job."""
        actor = given.get("actor") or self.core.actor
        job_id = self.preview(action, **given).job.id
        assert self.jobs.start(actor, job_id).status is BulkStatus.PENDING
        return job_id

    def finish(self) -> int:
        """Work until nothing is left to do; return how many executions were handled."""
        total = 0
        while done := self.work():
            total += done
        return total

    def job(self, job_id: UUID) -> BulkJob:
        """Return a job."""
        return self.jobs.get(self.core.actor, job_id)

    def items(self, job_id: UUID, *outcomes: BulkOutcome) -> Sequence[BulkItem]:
        """Return what became of the executions."""
        return self.jobs.items(self.core.actor, job_id, outcomes, limit=1_000).items


def many(core: Core, number: int) -> list[UUID]:
    """Return pending executions, the newest first."""
    return list(core.pending_many([{} for _ in range(number)]))[::-1]


def fail(core: Core) -> UUID:
    """Return an execution that has failed."""
    claim = core.running()
    core.end(claim, FAILED)
    return claim.lease.execution_id


def counts(job: BulkJob) -> tuple[BulkStatus, int, int, int]:
    """Return the status of a job, and how many are done, skipped and failed."""
    return job.status, job.done, job.skipped, job.failed
