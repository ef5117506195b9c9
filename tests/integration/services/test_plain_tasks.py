"""Sums of plain Celery tasks: counted once, bounded, and kept while the database is away."""

from uuid import UUID

import pytest
from sqlalchemy import text

from celeriac.db import plain_tasks, rollups, workers
from celeriac.domain.executions.model import WorkerIdentity
from celeriac.domain.metrics import OTHER
from celeriac.domain.plain_tasks import MOST_NAMES, EndCounts, PlainEnd
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
        assert not counts.store(core.database, lambda: worker)
        counts.ended("shop.mail", PlainEnd.FAILED, "2")
        assert not counts.store(core.database, lambda: worker)
    assert all_sums(core)[Grain.TOTAL].ended == 0
    for _ in range(3):
        counts.store(core.database, lambda: worker)
    assert set(map(repr, all_sums(core).values())) == {repr(EndCounts(1, 1, 0))}

    with core.database.autocommit() as connection:  # an answer that was lost: it is sent again
        assert plain_tasks.add(connection, worker, batch=2, counts={"a": EndCounts(9)})
        assert not plain_tasks.add(connection, uuid7(), batch=1, counts={"a": EndCounts(9)})
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
    assert counts.store(core.database, lambda: None)
    assert all_sums(core)[Grain.TOTAL] == EndCounts(completed=MOST_IDS + 1, failed=2)


@pytest.mark.requirement("D2")
def test_names_are_bounded_and_old_sums_can_go(core: Core) -> None:
    for turn in range(2):
        counts = PlainTaskCounts()
        for number in range(MOST_NAMES + 5):
            counts.ended(f"task-{turn}-{number:03}\x00\ud800", DONE, f"{number}")
        assert counts.store(core.database, lambda: None)
    with core.database.autocommit() as connection:
        names = plain_tasks.by_name(connection)
        assert len(names) <= MOST_NAMES + 1
        assert names[OTHER].completed == MOST_NAMES + 10
        connection.execute(text("UPDATE plain_task_sums SET start = start - interval '9 days'"))
        for grain in (Grain.MINUTE, Grain.HOUR, Grain.DAY):
            assert plain_tasks.delete_old(connection, grain, days=2, limit=10) == 1
    assert all_sums(core)[Grain.MINUTE].ended == 0


def test_running_ones_are_those_of_live_workers(core: Core) -> None:
    worker = register(core)
    with core.database.autocommit() as connection:
        connection.execute(text("UPDATE workers SET plain_running = 3"))
        assert plain_tasks.running(connection, within_seconds=60) == 3
        workers.stopped(connection, worker)
        assert plain_tasks.running(connection, within_seconds=60) == 0
