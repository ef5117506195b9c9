"""A beat is killed in the middle of a batch of a bulk job, and another one goes on."""

import pytest
from sqlalchemy import text

from celeriac.domain.bulk_actions import BulkAction, BulkStatus
from celeriac.domain.bulk_jobs import NewBulkJob
from celeriac.domain.executions.model import ExecutionFilter
from celeriac.domain.executions.states import Status
from celeriac.services.bulk_jobs.manage import BulkJobs
from celeriac.wiring.core import build_performers
from tests.support.fleet import Fleet
from tests.support.outages import holding
from tests.support.waiting import wait_until

EXECUTIONS = 350
WAITS = text("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
             " AND query LIKE '%INSERT INTO bulk_job_items%'")  # fmt: skip
RETRIES = text("SELECT count(*) FROM executions WHERE origin_id IS NOT NULL")
ORIGINS = text("SELECT count(DISTINCT origin_id) FROM executions WHERE origin_id IS NOT NULL")


@pytest.mark.requirement("F19", "A4")
def test_each_execution_is_retried_once_although_the_keeper_is_killed(fleet: Fleet) -> None:
    shared, actor = fleet.container, fleet.actor
    task = fleet.task("noop")
    ids = fleet.batch(task, [{"n": n} for n in range(EXECUTIONS)])
    shared.cancel(actor, ids)
    jobs = BulkJobs(shared.database, build_performers(shared))
    wanted = ExecutionFilter(task_id=task, statuses=[Status.CANCELLED])
    new = NewBulkJob(action=BulkAction.RETRY, arguments={}, given={"task": "noop"}, wanted=wanted)
    job_id = jobs.preview(actor, new).job.id
    url = shared.database.engine.url
    with holding(url, "LOCK TABLE bulk_job_items IN SHARE MODE"):
        killed = fleet.beat("beat1")
        jobs.start(actor, job_id)
        # the new executions of its first batch are stored, and not committed
        wait_until(lambda: fleet.scalar(WAITS) == 1, "a batch waits to store its outcomes")
        killed.kill()
        assert (fleet.scalar(RETRIES), jobs.get(actor, job_id).position) == (0, 0)
        fleet.beat("beat2")
    wait_until(lambda: jobs.get(actor, job_id).status.terminal, "the other beat has finished it")
    job = jobs.get(actor, job_id)
    assert (job.status, job.done, job.skipped) == (BulkStatus.COMPLETED, EXECUTIONS, 0)
    assert fleet.scalar(RETRIES) == fleet.scalar(ORIGINS) == EXECUTIONS
    first = jobs.items(actor, job_id, limit=500).items
    assert {each.execution_id for each in first} == set(ids)
