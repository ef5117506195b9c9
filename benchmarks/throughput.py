"""(a) Durable no-op executions per second, end to end, alternating with bare Celery with results.

Both run on the same Valkey, with the same pool and concurrency, and count as done when the
submitter has seen that all have succeeded. They are handed over in bulk, by the call that each
offers for that (`Submit.many`, `group`), or one by one (`Submit.one`, `delay`) by a few threads, as
requests come in: a durable hand-over waits for the disk, and those that wait together share it.
"""

import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from benchmarks.costs import Meter, Statements
from benchmarks.figures import Figure, Target
from benchmarks.scale import IN_BULK, Scale
from benchmarks.stage import Stage
from celeriac.domain.executions.model import SubmitRequest

_CONCURRENCY = {"threads": 8, "prefork": 2}
_SUBMITTERS = 8
_GOALS = {("threads", IN_BULK): 2.5}
"""How many times bare Celery, by pool and way; the others:"""
_GOAL = 1.5

T = TypeVar("T")

Run = Callable[[int], None]
"""Executes that many no-ops and returns when all have succeeded."""


def measure(stage: Stage, scale: Scale) -> Figure:
    """Measure pools and ways of submitting, each with workers of its own."""
    measured = {side: _side_by_side(stage, scale, *side) for side in scale.sides}
    return Figure(
        "How many durable no-op executions a second, beside bare Celery with results?",
        {", ".join(side): each for side, each in measured.items()},
        [
            Target(
                f"{', '.join(side)}: ratio of medians",
                each["ratio_of_medians"],
                _GOALS.get(side, _GOAL),
                more_is_better=True,
            )
            for side, each in measured.items()
        ],
    )


def _side_by_side(stage: Stage, scale: Scale, pool: str, way: str) -> dict[str, Any]:
    concurrency = _CONCURRENCY[pool]
    ours: list[float] = []
    bares: list[float] = []
    count = scale.executions
    statements = _Count(stage)
    with (
        stage.programs.beat() as beat,
        stage.programs.worker(pool=pool, concurrency=concurrency) as our_worker,
        stage.programs.bare_worker(pool=pool, concurrency=concurrency) as bare_worker,
    ):
        run_ours, run_bare = celeriac(stage, way), bare(way)
        our_meter = Meter({"worker": our_worker, "beat": beat, **stage.servers}, stage.valkey)
        bare_meter = Meter({"worker": bare_worker, "valkey": stage.servers["valkey"]}, stage.valkey)
        for warm_up in (1, count // 4):
            run_ours(warm_up)
            run_bare(warm_up)
        for _ in range(scale.rounds):
            bares.append(_rate(run_bare, count, bare_meter))
            ours.append(_rate(run_ours, count, our_meter))
    return {
        "concurrency": concurrency,
        "executions": count,
        "celeriac_per_second": [round(value) for value in ours],
        "bare_celery_per_second": [round(value) for value in bares],
        "celeriac_median": round(statistics.median(ours)),
        "bare_celery_median": round(statistics.median(bares)),
        "ratio_of_medians": round(statistics.median(ours) / statistics.median(bares), 2),
        "celeriac_per_execution": our_meter.per_execution()
        | statements.per_execution(1 + count // 4 + scale.rounds * count),
        "bare_celery_per_execution": bare_meter.per_execution(),
    }


def _rate(run: Run, count: int, meter: Meter) -> float:
    seconds = 0.0

    def timed() -> None:
        nonlocal seconds
        begin = time.perf_counter()
        run(count)
        seconds = time.perf_counter() - begin

    meter.run(timed, count)
    return count / seconds


def celeriac(stage: Stage, way: str) -> Run:
    """Return what runs no-ops of Celeriac."""
    request = SubmitRequest(task_id=stage.tasks["noop"])
    container = stage.container

    def run(count: int) -> None:
        if way == IN_BULK:
            container.submit.batch(stage.actor, request, [{}] * count)
            container.dispatch.send_due()
        else:
            _by_threads(lambda: container.submit(stage.actor, request), count)
        stage.watch.wait_until_idle()

    return run


def bare(way: str) -> Run:
    """Return what runs no-ops of bare Celery."""
    from celery import group

    from benchmarks.bare import noop

    def run(count: int) -> None:
        if way == IN_BULK:
            group(noop.s() for _ in range(count)).apply_async().get(timeout=120)
        else:
            for result in _by_threads(noop.delay, count):
                result.get(timeout=120)

    return run


def _by_threads(call: Callable[[], T], count: int) -> list[T]:
    with ThreadPoolExecutor(_SUBMITTERS) as threads:
        return [future.result() for future in [threads.submit(call) for _ in range(count)]]


class _Count:
    """Counts statements and writes to the disk, from before the programs' start to after their end.

    Each statement is a round trip and, with autocommit, a transaction: that is how PostgreSQL
    counts those of the worker and the keeper, the few of their start and their heartbeats among
    them.
    """

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._submitter = Statements(stage.container.database.engine)
        self._begin = self._others()
        self._begin_syncs = stage.watch.wal_syncs()

    def per_execution(self, executions: int) -> dict[str, Any]:
        others = self._others() - self._begin
        return {
            "statements": {
                "submitter": round(self._submitter.count / executions, 2),
                "worker_and_keeper": round(others / executions, 2),
            },
            "wal_syncs": round((self._stage.watch.wal_syncs() - self._begin_syncs) / executions, 2),
        }

    def _others(self) -> int:
        self._stage.container.database.close()  # it opens new connections when it needs them
        everybody = self._stage.watch.transactions()
        return everybody - self._submitter.count - self._stage.watch.statements
