"""The thread of a worker process that renews leases and reports."""

import threading
import time
from types import SimpleNamespace
from typing import Any

import psutil
from celery import Celery

from celeriac.services.executions.attempt import AttemptRegistry
from celeriac.services.executions.lacks import Lacks
from celeriac.worker.process import Worker, WorkerProcess

TICKS = 25


class Away:
    """A heartbeat whose database is away: it counts what it is asked for."""

    def __init__(self, ended: threading.Event) -> None:
        self.ended = ended
        self.ticks = 0
        self.reports = 0

    def beat(self) -> None: ...

    @property
    def is_due(self) -> bool:
        self.ticks += 1
        if self.ticks == TICKS:
            self.ended.set()
        return False

    def report(self) -> bool:
        self.reports += 1
        return False


def test_a_report_that_cannot_be_stored_is_not_tried_at_each_tick() -> None:
    process: Any = WorkerProcess.__new__(WorkerProcess)
    process._ended = threading.Event()
    heartbeat = Away(process._ended)
    process._runtime = SimpleNamespace(
        heartbeat=heartbeat,
        attempts=AttemptRegistry(),
        lacks=Lacks(),
        registration=SimpleNamespace(paused=False),
    )
    settings: Any = SimpleNamespace(worker=SimpleNamespace(heartbeat_seconds=3600.0))
    process._worker = Worker(Celery(), settings, hostname="h", pool="threads", slots=1)
    process._me = psutil.Process()
    process._reported = True  # and now it doesn't consume any more
    process._report_again = 0.0
    began = time.monotonic()
    process._beat()
    assert heartbeat.ticks == TICKS
    assert 1 <= heartbeat.reports <= 2 + (time.monotonic() - began)


def test_a_process_waits_for_claims_that_are_being_made() -> None:
    process: Any = WorkerProcess.__new__(WorkerProcess)
    attempts = AttemptRegistry()
    process._runtime = SimpleNamespace(attempts=attempts)
    process._worker = Worker(Celery(), SimpleNamespace())  # type: ignore[arg-type]
    waiting = threading.Thread(target=process.wait_until_idle, daemon=True)
    with attempts.claiming():
        waiting.start()
        waiting.join(0.2)
        assert waiting.is_alive(), "what is claimed now would begin after the process has ended"
    waiting.join(10)
    assert not waiting.is_alive()
