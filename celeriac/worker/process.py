"""A process that runs executions: its threads and its shutdown.

In prefork every child is such a process, in the other pools the worker itself. It is created after
the fork, on first use.
"""

import mmap
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID

import psutil
import structlog
from celery import Celery

from celeriac import traces
from celeriac.agents.python.functions import LOADED
from celeriac.domain.executions.model import Message
from celeriac.domain.operations import WorkerReport
from celeriac.kit.processes import raise_descriptor_limit
from celeriac.services.executions.attempt import StopReason
from celeriac.services.executions.calls import StartCalls
from celeriac.services.operations.health import live_workers
from celeriac.services.operations.plain_tasks import PlainTaskCounts
from celeriac.settings import Settings
from celeriac.version import __version__
from celeriac.wiring.core import build, worker_lock_seconds
from celeriac.wiring.worker import WorkerRuntime
from celeriac.worker.status import ConsumerStatus, RunningCounts

logger = structlog.get_logger(__name__)

_TICK_SECONDS = 0.1
_LIVE_SECONDS = 30.0
_CODE_SECONDS = 1.0
_AGAIN_SECONDS = 0.5
"""The shortest time between two renewals of the lease."""

_IDLE_SECONDS = 0.02
"""How often a process that ends looks whether anything runs."""

_HAND_BACK_SECONDS = 10.0
"""How long what runs may take to be handed back at the end: longer than an agent's clean-up."""

_REPORT_SECONDS = 1.0
"""The shortest time between two reports, apart from those of the heartbeat."""


class ShutdownState:
    """How far a worker's shutdown is, shared with the children that it forks later."""

    def __init__(self) -> None:
        self._page = mmap.mmap(-1, 1)

    def start(self) -> None:
        """Take nothing new from now on; running attempts may end."""
        self._page[0] = max(self._page[0], 1)

    def drain(self) -> None:
        """Hand back what still runs: the grace time is over."""
        self._page[0] = 2

    @property
    def started(self) -> bool:
        """Whether nothing new may be taken."""
        return self._page[0] >= 1

    @property
    def draining(self) -> bool:
        """Whether running attempts must be handed back."""
        return self._page[0] == 2  # noqa: PLR2004 - the level that `drain` sets


@dataclass(slots=True)
class Worker:
    """What all processes of one worker share; `main_pid` is the parent of those of prefork."""

    app: Celery
    settings: Settings
    shutdown: ShutdownState = field(default_factory=ShutdownState)
    consumer: ConsumerStatus = field(default_factory=ConsumerStatus)
    counts: RunningCounts = field(default_factory=RunningCounts)
    hostname: str = "worker"
    pool: str = "solo"
    slots: int = 1
    coroutines: int = 0
    """Attempts that a process may run besides those in its slots."""
    main_pid: int = 0


class WorkerProcess:
    """Runs executions in this process until it is closed. Raises ConfigurationError."""

    def __init__(self, worker: Worker) -> None:
        traces.start("worker")
        raise_descriptor_limit()  # each event loop of a user's coroutine takes three
        self._worker = worker
        settings = worker.settings
        self.plain_counts = PlainTaskCounts()
        self._reported: bool | None = None
        self._report_again = 0.0
        self._closing = False
        self._ended = threading.Event()
        self._call_ended = threading.Event()
        self._me = psutil.Process()
        self._container = build(
            settings,
            service="worker",
            connections=settings.worker.database_connections,
            app=worker.app,
            lock_seconds=worker_lock_seconds(settings),
            call_due=self._call_ended.set,
        )
        self._runtime = WorkerRuntime(
            self._container,
            worker=f"{worker.hostname}/{os.getpid()}",
            describe=self._describe,
            shutting_down=lambda: worker.shutdown.started or self._closing,
            call_ended=self._call_ended.set,
            coroutines=worker.coroutines,
        )
        self._threads = [
            threading.Thread(target=self._beat, name="heartbeat", daemon=True),
            threading.Thread(target=self._write, name="event_writer", daemon=True),
            threading.Thread(target=self._watch_code, name="code-watch", daemon=True),
            threading.Thread(target=self._end_calls, name="celery-calls", daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def execute(self, message: Message) -> int:
        """Run the attempt that `message` names; see `services.executions.run.Execute`."""
        return self._runtime.execute(message)

    @property
    def start_calls(self) -> StartCalls:
        """What starts the executions of Celery tasks."""
        return self._runtime.start_calls

    @property
    def running(self) -> int:
        """The number of running attempts."""
        return len(self._runtime.attempts)

    def health(self) -> dict[str, object]:
        """Return the state of this process. Raises DatabaseUnavailableError."""
        live = live_workers(self._container.database, within_seconds=_LIVE_SECONDS)
        return {
            "worker": self._worker.hostname,
            "pool": self._worker.pool,
            "running": len(self._runtime.attempts),
            "workers": len(live),
            "database": "ok",
        }

    def wait_until_idle(self) -> None:
        """Take nothing new; wait until nothing runs, or what runs must be handed back."""
        self._closing = True
        while not self._runtime.attempts.idle and not self._worker.shutdown.draining:
            time.sleep(_IDLE_SECONDS)

    def close(self) -> None:
        """Hand back what still runs, mark the worker as stopped and end the threads.

        While the worker shuts down, what runs without a slot has its grace time to end.
        """
        self._closing = True
        if self._worker.shutdown.started:
            self.wait_until_idle()
        until = time.monotonic() + _HAND_BACK_SECONDS
        # an agent whose claim commits now would start while another worker gets it
        while not self._runtime.attempts.idle and time.monotonic() < until:
            self._stop_attempts()
            time.sleep(_IDLE_SECONDS)
        self._ended.set()
        self._call_ended.set()
        for thread in self._threads:
            thread.join(5)
        self._runtime.store_counts(self.plain_counts)
        self._runtime.heartbeat.sign_off()
        self._worker.counts.set(0)
        self._runtime.close()
        self._container.close()
        traces.stop()

    def _beat(self) -> None:
        """Renew the lease and report, in a thread that no agent can block."""
        interval = self._worker.settings.worker.heartbeat_seconds
        due = again = time.monotonic()
        while not self._ended.wait(_TICK_SECONDS):
            self._worker.counts.set(self.running)
            with _run_forever("heartbeat"):
                if self._worker.shutdown.draining and (count := self._stop_attempts()):
                    logger.info("worker.draining", executions=count)
                now = time.monotonic()
                if now >= due:
                    due, again = now + interval, now + _AGAIN_SECONDS
                    self._renew()
                    self._report()
                    self._runtime.store_counts(self.plain_counts)
                    continue
                if self._runtime.heartbeat.is_due and now >= again:
                    again = now + _AGAIN_SECONDS
                    self._renew()
                changed = self._reported not in {None, self._consuming}
                if changed and time.monotonic() >= self._report_again:
                    self._report()

    def _renew(self) -> None:
        self._runtime.heartbeat.beat()
        paused = self._runtime.registration.paused
        if paused != self._worker.consumer.paused:
            self._worker.consumer.set_paused(paused)
            logger.info("worker.paused" if paused else "worker.resumed", running=self.running)

    def _stop_attempts(self) -> int:
        return self._runtime.attempts.stop_all(StopReason.SHUTDOWN)

    def _write(self) -> None:
        """Store events and usage, about ten times a second."""
        while not self._ended.wait(self._worker.settings.worker.event_flush_seconds):
            with _run_forever("event_writer"):
                self._runtime.event_writer.flush()

    def _end_calls(self) -> None:
        """End Celery tasks whose executions have ended here; the keeper ends the others."""
        while self._call_ended.wait() and not self._ended.is_set():
            self._call_ended.clear()
            with _run_forever("celery-calls"):
                while self._container.end_calls() and not self._ended.is_set():
                    pass

    @property
    def _consuming(self) -> bool:
        """Whether messages are consumed. A busy `solo` worker counts as consuming."""
        if self._worker.shutdown.started or self._worker.consumer.paused:
            return False
        busy = self._worker.pool == "solo" and len(self._runtime.attempts) > 0
        return busy or self._worker.consumer.is_consuming

    def _watch_code(self) -> None:
        """Watch the files of the agents' code; each changed file is reported once."""
        reported: set[Path] = set()
        while not self._ended.wait(_CODE_SECONDS):
            with _run_forever("code-watch"):
                LOADED.note()
                changed = [file for file in LOADED.changed() if file not in reported]
                reported.update(changed)
                if changed:
                    self._on_change([str(file) for file in changed])

    def _on_change(self, files: list[str]) -> None:
        """Warn that agents run old code, or end the worker, so that its supervisor restarts it."""
        if not self._worker.settings.worker.reload:
            logger.warning(
                "worker.code_changed",
                files=files,
                cure="coroutines and new functions run as they were: restart the worker",
            )
            return
        logger.info("worker.restarts", reason="the code of its agents has changed", files=files)
        if not self._worker.shutdown.started:  # else another child of prefork did it
            self._worker.shutdown.start()
            os.kill(self._worker.main_pid, signal.SIGTERM)  # what runs may finish

    def _report(self) -> None:
        self._report_again = time.monotonic() + _REPORT_SECONDS
        consuming = self._consuming
        if self._runtime.heartbeat.report():
            self._reported = consuming

    def _describe(self, worker_id: UUID) -> WorkerReport:
        names, now = self._worker.consumer.names(), time.monotonic()
        return WorkerReport(
            id=worker_id,
            hostname=self._worker.hostname,
            pid=self._me.pid,
            pool=self._worker.pool,
            slots=self._worker.slots,
            coroutines=self._worker.coroutines,
            running=len(self._runtime.attempts),
            cpu_percent=self._me.cpu_percent(),
            memory_bytes=self._me.memory_info().rss,
            version=__version__,
            queues=names.queues,
            consuming=self._consuming,
            messages_dropped=self._worker.consumer.dropped_count,
            unknown_tasks=list(names.unknown_tasks),
            unknown_tasks_ages=[now - at for at in names.unknown_tasks.values()],
            lacks=self._runtime.lacks.names,
            confinement=self._worker.settings.confinement.described,
            plain_running=self.plain_counts.running,
        )


@contextmanager
def _run_forever(thread: str) -> Iterator[None]:
    """Log any error of a round, so that the thread, which the process depends on, continues."""
    try:
        yield
    except Exception:
        logger.exception("worker.thread_failed", thread=thread)
