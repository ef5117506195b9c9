"""(a) Durable no-op executions per second, end to end, in turn with bare Celery with results.

Both run on the same Valkey, with the same pool and concurrency, and count as done when the
submitter has seen that all have succeeded. They are handed over in bulk, by the call that each
offers for that (`Submit.many`, `group`), or one by one by one thread (`Submit.one`, `delay`).
"""

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from celery import group

from benchmarks.measures import wait_until_idle
from benchmarks.stage import Stage
from celeriac.services.submit import Request


def measure(
    stage: Stage, *, pool: str, concurrency: int, bulk: bool, count: int, rounds: int
) -> dict[str, Any]:
    """Return executions per second of both, the median of `rounds` interleaved runs."""
    ours: list[float] = []
    bare: list[float] = []
    with (
        _celeriac(stage, pool, concurrency, bulk=bulk) as run_ours,
        _bare(stage, pool, concurrency, bulk=bulk) as run_bare,
    ):
        run_ours(count // 4)
        run_bare(count // 4)
        for _ in range(rounds):
            bare.append(count / _timed(run_bare, count))
            ours.append(count / _timed(run_ours, count))
    ratio = statistics.median(ours) / statistics.median(bare)
    return {
        "pool": pool,
        "concurrency": concurrency,
        "handed_over": "in bulk" if bulk else "one by one",
        "executions": count,
        "celeriac_per_second": [round(value) for value in ours],
        "bare_celery_per_second": [round(value) for value in bare],
        "celeriac_median": round(statistics.median(ours)),
        "bare_celery_median": round(statistics.median(bare)),
        "ratio_of_medians": round(ratio, 2),
    }


def _timed(run: Callable[[int], None], count: int) -> float:
    begin = time.perf_counter()
    run(count)
    return time.perf_counter() - begin


@contextmanager
def _celeriac(
    stage: Stage, pool: str, concurrency: int, *, bulk: bool
) -> Iterator[Callable[[int], None]]:
    request = Request(task_id=stage.noop)
    container = stage.container

    def run(count: int) -> None:
        if bulk:
            container.submit.many(stage.actor, request, [{}] * count)
            container.dispatch.due()
        else:
            for _ in range(count):
                container.submit.one(stage.actor, request)
        wait_until_idle(container.database, seconds=120)

    with stage.beat(), stage.worker(f"ours-{pool}", pool=pool, concurrency=concurrency):
        run(1)
        yield run


@contextmanager
def _bare(
    stage: Stage, pool: str, concurrency: int, *, bulk: bool
) -> Iterator[Callable[[int], None]]:
    from benchmarks.bare import noop

    def run(count: int) -> None:
        if bulk:
            group(noop.s() for _ in range(count)).apply_async().get(timeout=120)
        else:
            for result in [noop.delay() for _ in range(count)]:
                result.get(timeout=120)

    with stage.bare_worker(f"bare-{pool}", pool=pool, concurrency=concurrency):
        run(1)
        yield run
