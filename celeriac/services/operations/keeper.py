"""Maintenance jobs, each on a thread and a clock of its own."""

import random
import socket
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import structlog

from celeriac.domain.errors import DatabaseUnavailableError
from celeriac.domain.operations import JobReport
from celeriac.kit.backoff import grown

logger = structlog.get_logger(__name__)

_LONGEST_PAUSE = 60.0
_LONGEST_PAUSE_UNAVAILABLE = 2.0
"""An unavailable database is retried more often than a bug: all work waits for it."""

_SPREAD = (0.8, 1.2)
_SHORTEST_PAUSE = 0.01
_END_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class MaintenanceJob:
    """Work to do every `seconds`; `work` returns how much it did."""

    name: str
    seconds: float
    work: Callable[[], int]
    stop: Callable[[], None] = lambda: None
    """Lets long work return soon."""


class MaintenanceRunner:
    """Runs maintenance jobs until it is closed.

    A job that blocks or fails does not delay the others, and never overlaps itself. A failed job is
    logged and retried after growing pauses; no error ends it.
    """

    def __init__(
        self,
        jobs: Sequence[MaintenanceJob],
        record: Callable[[JobReport], None] = lambda _: None,
    ) -> None:
        """Tell `record`, which must not raise, of each run that has ended."""
        self._jobs = jobs
        self._record = record
        self._host = socket.gethostname()
        self._threads: dict[str, threading.Thread] = {}
        self._ended = threading.Event()

    def ensure_running(self) -> None:
        """Start the jobs that don't run: first all, later those whose thread has died."""
        for job in self._jobs:
            thread = self._threads.get(job.name)
            if thread is None or not thread.is_alive():
                thread = threading.Thread(
                    target=self._run, args=(job,), name=f"keeper-{job.name}", daemon=True
                )
                self._threads[job.name] = thread
                try:
                    thread.start()
                except RuntimeError as error:
                    # the system has no thread left; the next call retries
                    del self._threads[job.name]
                    logger.warning("keeper.job_not_started", job=job.name, error=str(error))

    def close(self) -> None:
        """Start no more work, and wait briefly for running jobs."""
        self._ended.set()
        for job in self._jobs:
            job.stop()
        deadline = time.monotonic() + _END_SECONDS
        for thread in self._threads.values():
            thread.join(max(deadline - time.monotonic(), 0))

    def _run(self, job: MaintenanceJob) -> None:
        failures = 0
        pause = 0.0
        while not self._ended.wait(pause):
            began = time.monotonic()
            ended = _once(job)
            taken = time.monotonic() - began
            if ended.error is None:
                failures = 0
                pause = max(job.seconds - taken, _SHORTEST_PAUSE)
            else:
                failures += 1
                seconds = grown(job.seconds, failures, max(ended.longest_pause, job.seconds))
                pause = seconds * random.uniform(*_SPREAD)
            self._record(
                JobReport(
                    name=job.name,
                    host=self._host,
                    interval_seconds=job.seconds,
                    seconds=taken,
                    next_in=pause,
                    done=ended.done,
                    failures=failures,
                    error=ended.error,
                )
            )


@dataclass(frozen=True, slots=True)
class _Ended:
    """A run of a job: how much it did, or its error and the longest pause before the next try."""

    done: int = 0
    error: str | None = None
    longest_pause: float = 0.0


def _once(job: MaintenanceJob) -> _Ended:
    try:
        done = job.work()
    except DatabaseUnavailableError as error:
        logger.warning(
            "keeper.database_unavailable", job=job.name, code=error.code, error=error.message
        )
        return _Ended(error=error.message, longest_pause=_LONGEST_PAUSE_UNAVAILABLE)
    except Exception as error:
        # whatever it is, the other jobs must continue, and this one must be retried
        logger.exception("keeper.job_failed", job=job.name)
        return _Ended(error=f"{type(error).__name__}: {error}", longest_pause=_LONGEST_PAUSE)
    if done:
        logger.info("keeper.done", job=job.name, count=done)
    return _Ended(done)
