"""Plain Celery tasks: counted once, bounded, and kept while the database is away; recent runs."""

from dataclasses import replace
from uuid import UUID

import pytest
from sqlalchemy import text

from celeriac.db import plain_tasks, rollups, workers
from celeriac.domain.executions.model import WorkerIdentity
from celeriac.domain.executions.states import SimpleStatus
from celeriac.domain.metrics import OTHER
from celeriac.domain.plain_tasks import (
    MOST_NAMES,
    MOST_RUNS_OF_BATCH,
    MOST_RUNS_OF_WORKER,
    EndCounts,
    PlainEnd,
    RecentRun,
)
from celeriac.domain.rollups import Grain
from celeriac.kit.ids import uuid7
from celeriac.services.operations.plain_tasks import MOST_IDS, PlainTaskCounts
from tests.support.core import Core, describe
from tests.support.outages import read_only

DONE = PlainEnd.COMPLETED


def register(core: Core) -> UUID:
    worker = WorkerIdentity(uuid7(), "w")
    with core.database.autocommit() as connection:
        workers.register(connection, describe(worker), lease_seconds=30)
    return worker.id


def all_sums(core: Core) -> dict[Grain, EndCounts]:
    with core.database.autocommit() as connection:
        found = {}
        for grain in Grain:
            since = None
            if grain is not Grain.TOTAL:
                since = rollups.span(connection, grain, seconds=60).since
            found[grain] = plain_tasks.sums(connection, grain, since=since)
        return found


@pytest.mark.requirement("D2")
def test_an_outage_keeps_the_counts_and_adds_them_once(core: Core) -> None:
    worker = register(core)
    counts = PlainTaskCounts()
    counts.ended("shop.mail", DONE, "1")
    with read_only(core.database.engine.url):
        assert not counts.store(core.database, lambda: worker, hostname="w")
        counts.ended("shop.mail", PlainEnd.FAILED, "2")
        assert not counts.store(core.database, lambda: worker, hostname="w")
    assert all_sums(core)[Grain.TOTAL].ended == 0
    for _ in range(3):
        counts.store(core.database, lambda: worker, hostname="w")
    assert set(map(repr, all_sums(core).values())) == {repr(EndCounts(1, 1, 0))}

    nine = {"a": EndCounts(9)}
    with core.database.autocommit() as connection:  # an answer that was lost: it is sent again
        assert plain_tasks.add(connection, worker, batch=2, counts=nine, hostname="w")
        assert not plain_tasks.add(connection, uuid7(), batch=1, counts=nine, hostname="w")
        assert plain_tasks.by_name(connection) == {"shop.mail": EndCounts(1, 1, 0)}


@pytest.mark.requirement("D2")
def test_an_end_counts_once_unless_its_id_is_sent_again_or_long_ago(core: Core) -> None:
    counts = PlainTaskCounts()
    for number in range(MOST_IDS + 1):
        counts.ended("shop.mail", DONE, f"{number}")
    counts.ended("shop.mail", PlainEnd.FAILED, "1")
    counts.ended("shop.mail", PlainEnd.FAILED, "0")
    counts.sent_again("5")
    counts.ended("shop.mail", PlainEnd.FAILED, "5")
    assert counts.store(core.database, lambda: None, hostname="w")
    assert all_sums(core)[Grain.TOTAL] == EndCounts(completed=MOST_IDS + 1, failed=2)


@pytest.mark.requirement("D2")
def test_names_are_bounded_and_old_sums_can_go(core: Core) -> None:
    for turn in range(2):
        counts = PlainTaskCounts()
        for number in range(MOST_NAMES + 5):
            counts.ended(f"task-{turn}-{number:03}\x00\ud800", DONE, f"{number}")
        assert counts.store(core.database, lambda: None, hostname="w")
    with core.database.autocommit() as connection:
        names = plain_tasks.by_name(connection)
        assert len(names) <= MOST_NAMES + 1
        assert names[OTHER].completed == MOST_NAMES + 10
        connection.execute(text("UPDATE plain_task_sums SET start = start - interval '9 days'"))
        for grain in (Grain.MINUTE, Grain.HOUR, Grain.DAY):
            assert plain_tasks.delete_old(connection, grain, days=2, limit=10) == 1
    assert all_sums(core)[Grain.MINUTE].ended == 0


def runs_of(core: Core) -> dict[str, RecentRun]:
    with core.database.autocommit() as connection:
        found = plain_tasks.recent(
            connection, status=None, before=None, limit=1_000, within_seconds=60
        )
    return {each.run.task_id: each for each in found}


@pytest.mark.requirement("D2", "D3")
def test_runs_are_told_while_they_run_and_once_they_have_ended(core: Core) -> None:
    worker = register(core)
    first, second = PlainTaskCounts(), PlainTaskCounts()

    def store(counts: PlainTaskCounts, worker_id: UUID | None = None) -> None:
        assert counts.store(core.database, lambda: worker_id, hostname="w")

    first.began("shop.mail", "a", "mail")
    first.began("shop.retry", "b\x00", None)
    store(first, worker)
    assert {each.run.status for each in runs_of(core).values()} == {SimpleStatus.IN_PROGRESS}
    began = runs_of(core)["a"]
    assert (began.hostname, began.alive, began.run.queue) == ("w", True, "mail")

    first.left("b\x00")  # it will be tried again, elsewhere
    second.began("shop.retry", "b\x00", "default")
    second.ended("shop.retry", PlainEnd.FAILED, "b\x00", error="No: password=hunter2 " + "x" * 300)
    first.ended("shop.mail", DONE, "a")
    second.ended("shop.late", PlainEnd.CANCELLED, "c", "default")
    store(first, worker)
    store(second)  # as the parent of prefork, which has no row
    found = {name: each.run for name, each in runs_of(core).items()}
    assert [found[name].status for name in ("a", "b\ufffd", "c")] == [
        "completed",
        "failed",
        "cancelled",
    ]
    assert (found["a"].id, found["a"].started_at) == (began.run.id, began.run.started_at)
    error = found["b\ufffd"].error_message or ""
    assert "hunter2" not in error
    assert len(error) <= 200
    assert (found["c"].started_at, found["c"].queue) == (None, "default")

    late = replace(began.run, status=SimpleStatus.IN_PROGRESS)  # of a batch that was delayed
    with core.database.autocommit() as connection:
        plain_tasks.add(connection, None, batch=1, counts={}, hostname="w", runs=[late])
        workers.stopped(connection, worker)
    assert runs_of(core)["a"].run.status == "completed"
    assert not runs_of(core)["a"].alive


@pytest.mark.requirement("D2", "D3")
def test_runs_of_a_worker_are_bounded_and_old_ones_go(core: Core) -> None:
    for _ in range(MOST_RUNS_OF_WORKER // MOST_RUNS_OF_BATCH + 3):
        counts = PlainTaskCounts()
        names = [f"{uuid7()}" for _ in range(MOST_RUNS_OF_BATCH + 2)]
        for name in names:
            counts.ended("shop.mail", DONE, name)
        assert counts.store(core.database, lambda: None, hostname="w")
        assert set(names[2:]) <= runs_of(core).keys(), "the newest of a batch"
        assert not set(names[:2]) & runs_of(core).keys()
    assert len(runs_of(core)) <= MOST_RUNS_OF_WORKER + MOST_RUNS_OF_BATCH + 1
    with core.database.autocommit() as connection:
        assert plain_tasks.delete_old_runs(connection, days=1, limit=10) == 0
        assert plain_tasks.delete_old_runs(connection, days=-1, limit=10) == 10


def test_running_ones_are_those_of_live_workers(core: Core) -> None:
    worker = register(core)
    with core.database.autocommit() as connection:
        connection.execute(text("UPDATE workers SET plain_running = 3"))
        assert plain_tasks.running(connection, within_seconds=60) == 3
        workers.stopped(connection, worker)
        assert plain_tasks.running(connection, within_seconds=60) == 0
