"""(e) Executions that all wait at once in one worker process: time, memory, descriptors."""

import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psutil

from benchmarks.figures import Figure, Target
from benchmarks.scale import Scale
from benchmarks.stage import Stage
from celeriac.domain.executions.model import SubmitRequest
from celeriac.domain.tasks import DEFAULT_QUEUE

_GOAL_FACTOR = 1.25
_SLOTS = 16
_GOAL_MEGABYTES = 250.0
_GOAL_MEGABYTES_EACH = 0.15
"""So 400 MB for 1,000 waits, and 1 GB for 5,000."""
_MEGABYTE = 1_000_000
_SAMPLE_SECONDS = 0.05
_START_SECONDS = 60.0


def measure(stage: Stage, scale: Scale) -> Figure:
    """Submit `scale.waits` waits at once to a worker with few slots, `scale.rounds` times."""
    walls: list[float] = []
    with (
        stage.programs.beat(),
        stage.programs.worker(
            pool="threads",
            concurrency=_SLOTS,
            environment={"CELERIAC_WORKER_COROUTINES": str(scale.waits)},
        ) as worker,
    ):
        _wait_until(lambda: stage.container.dispatch.capacity(DEFAULT_QUEUE) >= 2 * _SLOTS)
        before = worker.memory_info().rss
        with _peaks(worker) as peak:
            _run(stage, scale.waits, 0.0)
            for _ in range(scale.rounds):
                begin = time.perf_counter()
                _run(stage, scale.waits, scale.wait_seconds)
                walls.append(time.perf_counter() - begin)
    factor = round(statistics.median(walls) / scale.wait_seconds, 2)
    megabytes = round(peak.memory / _MEGABYTE, 1)
    return Figure(
        "How long do many waits take in one worker process, and what do they occupy?",
        {
            "executions": scale.waits,
            "wait_seconds": scale.wait_seconds,
            "wall_seconds": [round(seconds, 2) for seconds in walls],
            "factor": factor,
            "memory_before_megabytes": round(before / _MEGABYTE, 1),
            "peak_memory_megabytes": megabytes,
            "peak_descriptors": peak.descriptors,
            "peak_threads": peak.threads,
        },
        [
            Target("factor", factor, _GOAL_FACTOR),
            Target(
                "peak_memory_megabytes",
                megabytes,
                round(_GOAL_MEGABYTES + _GOAL_MEGABYTES_EACH * scale.waits),
            ),
        ],
    )


def _wait_until(condition: Callable[[], bool]) -> None:
    """Wait for a worker that starts: its slots count once it has reported them."""
    deadline = time.monotonic() + _START_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"the worker has not reported within {_START_SECONDS:g} s")
        time.sleep(_SAMPLE_SECONDS)


def _run(stage: Stage, count: int, seconds: float) -> None:
    request = SubmitRequest(task_id=stage.tasks["wait"])
    stage.container.submit.batch(stage.actor, request, [{"seconds": seconds}] * count)
    stage.container.dispatch.send_due()
    stage.watch.wait_until_idle()


@contextmanager
def _peaks(process: psutil.Process) -> Iterator["_Peak"]:
    """Measure the resources of a process while the block runs."""
    peak = _Peak(process)
    thread = threading.Thread(target=peak.watch, daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        peak.ended.set()
        thread.join()


class _Peak:
    """Maxima of resident memory in bytes, open descriptors and threads."""

    def __init__(self, process: psutil.Process) -> None:
        self.ended = threading.Event()
        self.memory = self.descriptors = self.threads = 0
        self._process = process

    def watch(self) -> None:
        while not self.ended.wait(_SAMPLE_SECONDS):
            self.memory = max(self.memory, self._process.memory_info().rss)
            self.descriptors = max(self.descriptors, self._process.num_fds())
            self.threads = max(self.threads, self._process.num_threads())
