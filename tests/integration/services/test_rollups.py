"""Sums of executions that ended: exact counts, the same percentiles as the rows, bounded cost."""

import threading
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import text

from celeriac.db import rollups
from celeriac.domain.errors import ForbiddenError, InvalidInputError
from celeriac.domain.executions.model import Completed, Failed, Failure, Retry
from celeriac.domain.rollups import (
    MOST_QUEUES_OF_TASK,
    THRESHOLDS,
    Grain,
    Histogram,
    Sums,
    bucket_of,
)
from celeriac.services.operations.rollups import Rollups
from tests.support.catalog import make_actor, make_task
from tests.support.core import Core, report_worker
from tests.support.outages import holding
from tests.support.retention import places_in, retention
from tests.support.together import together

HOUR = 3_600
FAILED = Failed(Failure("agent_failed", "no such lead", {"type": "LookupError", "attempt": 1}))

_APPEND = text("""
INSERT INTO execution_ends (workspace_id, task_id, ended_at, wait_ms, run_ms, input_tokens,
                            output_tokens, model_calls, retries, crashes, cost, outcome, queue)
SELECT :workspace, :task, now() - make_interval(secs => :ago), n * 10, n * n, 2, 3, 1, n % 2, 0,
       0.25, CASE WHEN n % 10 = 0 THEN 'failed' ELSE 'completed' END, :queue
FROM generate_series(1, :number) AS n
""")


def append(core: Core, number: int, *, ago: float = 0, queue: str = "a", **ids: UUID) -> None:
    """Append so many ends, every tenth a failure."""
    values: dict[str, Any] = {"workspace": core.actor.workspace_id, "task": core.task, **ids}
    with core.database.autocommit() as connection:
        connection.execute(_APPEND, {**values, "number": number, "ago": ago, "queue": queue})


def fold(core: Core, limit: int = 1_000) -> int:
    with core.database.autocommit() as connection:
        return rollups.fold(connection, limit=limit)


def window(core: Core, seconds: float = HOUR, **options: Any) -> Sums:
    return Rollups(core.database).window(core.actor, seconds, **options).sums


@pytest.mark.requirement("B12")
def test_every_end_counts_once_with_its_task_and_queue(core: Core) -> None:
    core.end(core.running(), Completed(1))
    core.end(core.running(), FAILED)
    core.cancel(core.actor, [core.pending()])
    retried = core.running()
    core.end(retried, Retry(Failure("agent_failed", "again"), 0.0))
    assert core.count("execution_ends") == 3
    (oldest,) = [Rollups(core.database).window(core.actor, HOUR)]
    assert oldest.sums == Sums()
    assert oldest.behind_seconds is not None

    assert fold(core) == 3

    found = Rollups(core.database).window(core.actor, HOUR)
    assert found.behind_seconds is None
    assert (found.sums.completed, found.sums.failed, found.sums.cancelled) == (1, 1, 1)
    assert found.sums.run.count == 2, "the cancelled one has never begun"
    assert found.sums.success_rate == 0.5
    assert found.per_minute(found.sums.ended) == pytest.approx(180 / found.seconds)
    assert [(each.task_id, each.sums) for each in found.tasks] == [(core.task, found.sums)]
    assert [(each.queue, each.sums) for each in found.queues] == [("task_execution", found.sums)]
    assert Rollups(core.database).totals(core.actor) == found.sums


@pytest.mark.requirement("D7", "F9")
def test_invented_queues_make_no_rows_without_end(core: Core) -> None:
    report_worker(core, 1, "early")
    append(core, 1, queue="early")
    fold(core)
    for number in range(MOST_QUEUES_OF_TASK + 10):
        append(core, 1, queue=f"invented-{number:02}")
    fold(core, limit=15)
    fold(core)
    report_worker(core, 1, "late", "zoo")
    append(core, 1, queue="late")
    append(core, 1, queue="invented-99")
    append(core, 1, queue="invented-00")
    fold(core)

    found = Rollups(core.database).window(core.actor, HOUR, top=100)
    counts = {each.queue: each.sums.ended for each in found.queues}
    kept = [f"invented-{number:02}" for number in range(MOST_QUEUES_OF_TASK)]
    assert counts == {
        **dict.fromkeys(kept, 1),
        "invented-00": 2,
        "early": 1,  # workers listen to these, which are not among the twenty
        "late": 1,
        "other": 11,
    }
    assert found.sums.ended == MOST_QUEUES_OF_TASK + 14


def test_the_histograms_of_the_database_are_those_of_the_domain(core: Core) -> None:
    append(core, 500)
    assert fold(core, 499) == 499
    assert fold(core) == 1
    expected = Sums(
        completed=450,
        failed=50,
        retries=250,
        model_calls=500,
        input_tokens=1_000,
        output_tokens=1_500,
        cost=Decimal(125),
        wait_seconds=sum(n * 10 for n in range(1, 501)) / 1_000,
        run_seconds=sum(n * n for n in range(1, 501)) / 1_000,
        wait=Histogram.of(n * 10 for n in range(1, 501)),
        run=Histogram.of(n * n for n in range(1, 501)),
    )
    for grain in (Grain.MINUTE, Grain.HOUR, Grain.DAY, Grain.TOTAL):
        with core.database.autocommit() as connection:
            found = rollups.sums(
                connection, grain, since=None, workspace_id=core.actor.workspace_id
            )
        assert replace(found, wait_seconds=0, run_seconds=0) == replace(
            expected, wait_seconds=0, run_seconds=0
        )
        assert found.wait_seconds == pytest.approx(expected.wait_seconds)
        assert found.run_seconds == pytest.approx(expected.run_seconds)
    (task,) = Rollups(core.database).window(core.actor, HOUR).tasks
    assert (task.sums.wait, task.sums.run) == (expected.wait, expected.run)


def test_buckets_are_the_same_at_all_their_limits(core: Core) -> None:
    """PostgreSQL and Python count the same thresholds."""
    edges = sorted({limit + step for limit in THRESHOLDS for step in (-1, 0, 1)})
    with core.database.autocommit() as connection:
        query = text("SELECT width_bucket(d, :limits) FROM unnest(:edges) WITH ORDINALITY AS x(d)")
        found = connection.execute(query, {"limits": list(THRESHOLDS), "edges": edges})
        assert list(found.scalars()) == list(map(bucket_of, edges))


def test_a_window_has_what_ended_in_it_and_the_busiest_first(core: Core) -> None:
    other = make_task(core.database, core.actor)
    append(core, 10)
    append(core, 30, task=other, queue="b")
    append(core, 100, ago=3 * HOUR, queue="c")
    append(core, 1_000, ago=10 * 86_400)
    append(core, 10_000, workspace=make_actor(core.database).workspace_id)
    Rollups(core.database).fold(700)
    for seconds, expected in ((HOUR, 40), (6 * HOUR, 140), (30 * 86_400, 1_140)):
        assert window(core, seconds).ended == expected
    found = Rollups(core.database).window(core.actor, HOUR)
    assert [(each.task_id, each.sums.ended) for each in found.tasks] == [
        (other, 30),
        (core.task, 10),
    ]
    assert [(each.queue, each.sums.ended) for each in found.queues] == [("b", 30), ("a", 10)]
    (best,) = Rollups(core.database).window(core.actor, HOUR, top=1).tasks
    assert best.task_id == other
    assert found.until - found.since < timedelta(seconds=HOUR + 61)
    assert Rollups(core.database).totals(core.actor).ended == 1_140


def test_only_an_administrator_sees_all_workspaces(core: Core) -> None:
    append(core, 5)
    append(core, 5, workspace=uuid4(), task=uuid4())
    fold(core)
    sums = Rollups(core.database)
    for ask in (sums.totals, lambda actor, **how: sums.window(actor, HOUR, **how)):
        with pytest.raises(ForbiddenError):
            ask(core.actor, every=True)
    administrator = replace(core.actor, administrator=True)
    assert sums.totals(administrator, every=True).ended == 10
    found = sums.window(administrator, HOUR, every=True)
    assert found.sums.ended == 10
    assert {each.task for each in found.tasks} >= {None}, "one is of no task that exists"


@pytest.mark.parametrize(("seconds", "top", "field"), [(59, 1, "window_seconds"),
    (93 * 86_400, 1, "window_seconds"), (60, 101, "top"), (60, -1, "top")])  # fmt: skip
def test_wrong_windows_are_refused(core: Core, seconds: float, top: int, field: str) -> None:
    with pytest.raises(InvalidInputError) as refused:
        Rollups(core.database).window(core.actor, seconds, top=top)
    assert refused.value.field == field


def test_folds_at_once_lose_and_double_nothing(core: Core) -> None:
    append(core, 300)
    append(core, 300, queue="b")
    folded = threading.Event()

    def fold_all() -> int:
        total = 0
        while core.count("execution_ends"):
            total += fold(core, 37)
        folded.set()
        return total

    assert sum(together([fold_all] * 3)) == 600
    assert window(core).ended == 600


def test_a_fold_waits_for_no_end_that_another_has_locked(core: Core) -> None:
    append(core, 20)
    lock = "SELECT id FROM execution_ends ORDER BY id LIMIT 5 FOR UPDATE"
    with holding(core.database.engine.url, lock):
        assert fold(core) == 15
    assert fold(core) == 5
    assert window(core).ended == 20


def test_old_sums_go_by_their_grain_and_totals_stay(core: Core, tmp_path: Path) -> None:
    for ago in (0, 3, 59, 61):
        append(core, 1, ago=ago * 86_400)
    fold(core)
    retention(core, places_in(tmp_path))
    with core.database.autocommit() as connection:
        found = connection.execute(
            text("SELECT grain, count(*) FROM execution_rollups WHERE scope = 'task' GROUP BY 1")
        )
        kept = {row[0]: row[1] for row in found}
    assert kept == {"minute": 1, "hour": 3, "day": 3, "total": 1}
    assert Rollups(core.database).totals(core.actor).ended == 4
