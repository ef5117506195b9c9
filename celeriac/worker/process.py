"""One process that runs executions: its parts, its threads and its end.

In prefork every child is such a process, in the other pools the worker itself. Nothing here exists
before a fork: the parts are made when the process takes its first look at them.
"""

import mmap
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
import structlog
from celery import Celery

from celeriac.db import workers
from celeriac.domain.executions.model import Message
from celeriac.kit.ids import uuid7
from celeriac.kit.processes import raise_descriptor_limit
from celeriac.services.executions.attempt import StopReason
from celeriac.settings import Settings
from celeriac.version import __version__
from celeriac.wiring.core import build
from celeriac.wiring.worker import build_worker_runtime, worker_lock_seconds
from celeriac.worker.reload import CodeWatch, end_worker
from celeriac.worker.status import ConsumerStatus

logger = structlog.get_logger(__name__)

_TICK_SECONDS = 0.1
_CODE_SECONDS = 1.0
_REPORT_SECONDS = 1.0
"""The shortest time between two reports, besides those of the heartbeat."""


class ShutdownState:
    """How far a worker is on its way down, shared with the children that it forks."""

    def __init__(self) -> None:
        """Make a shared page; it must exist before the fork."""
        self._page = mmap.mmap(-1, 1)

    def begin(self) -> None:
        """From now on nothing new is taken; what runs may end by itself."""
        self._page[0] = max(self._page[0], 1)

    def drain(self) -> None:
        """The grace time is over: hand back what still runs."""
        self._page[0] = 2

    @property
    def begun(self) -> bool:
        """Whether nothing new may be taken."""
        return self._page[0] >= 1

    @property
    def draining(self) -> bool:
        """Whether what runs is to be handed back."""
        return self._page[0] == 2  # noqa: PLR2004 - the level that `drain` sets


class WorkerProcess:
    """Runs executions in this process until it is closed."""

    def __init__(
        self,
        settings: Settings,
        app: Celery,
        closing: ShutdownState,
        consumer: ConsumerStatus,
        *,
        hostname: str,
        pool: str,
        slots: int,
        main_pid: int,
    ) -> None:
        """Make the parts and start the threads; raises ConfigurationError.

        `main_pid` is that of the worker, which in prefork is this process's parent.
        """
        raise_descriptor_limit()  # each coroutine of a user has an event loop, with three of them
        self._settings = settings
        self._closing = closing
        self._consumer = consumer
        self._reported: bool | None = None
        self._report_again = 0.0
        self._id = uuid7()
        self._hostname = hostname
        self._pool = pool
        self._slots = slots
        self._main_pid = main_pid
        self._ended = threading.Event()
        self._container = build(
            settings,
            service="worker",
            connections=settings.worker.database_connections,
            app=app,
            lock_seconds=worker_lock_seconds(settings),
        )
        self._runtime = build_worker_runtime(
            self._container, worker=f"{hostname}/{os.getpid()}", closing=lambda: closing.begun
        )
        self._me = psutil.Process()
        self._threads = [
            threading.Thread(target=self._beat, name="heartbeat", daemon=True),
            threading.Thread(target=self._write, name="event_writer", daemon=True),
            threading.Thread(target=self._watch_code, name="code-watch", daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def execute(self, message: Message) -> int:
        """Run what `message` offers, and more while it lasts; see `services.execute`."""
        return self._runtime.execute(message)

    @property
    def running(self) -> int:
        """How many attempts run here."""
        return len(self._runtime.active)

    def health(self) -> dict[str, object]:
        """Return what runs here and whether the database answers."""
        with self._container.database.statement() as connection:
            live = workers.live(connection, within_seconds=30)
        return {
            "worker": self._hostname,
            "pool": self._pool,
            "running": len(self._runtime.active),
            "workers": len(live),
            "database": "ok",
        }

    def close(self) -> None:
        """Hand back what still runs, say goodbye and end the threads."""
        self._runtime.active.stop_all(StopReason.SHUTDOWN)
        self._ended.set()
        for thread in self._threads:
            thread.join(5)
        self._runtime.heartbeat.sign_off(self._id)
        self._runtime.close()
        self._container.close()

    def _beat(self) -> None:
        """Renew leases and report, on a thread that no agent can hold up."""
        interval = self._settings.worker.heartbeat_seconds
        due = time.monotonic()
        while not self._ended.wait(_TICK_SECONDS):
            with _run_forever("heartbeat"):
                if self._closing.draining:
                    self._hand_back()
                if time.monotonic() >= due:
                    due = time.monotonic() + interval
                    self._runtime.heartbeat.beat()
                    self._report()
                    continue
                if self._reported not in {None, self._consuming} and self._may_report:
                    self._report()
                self._runtime.heartbeat.catch_up()

    def _hand_back(self) -> None:
        if count := self._runtime.active.stop_all(StopReason.SHUTDOWN):
            logger.info("worker.draining", executions=count)

    def _write(self) -> None:
        """Store what the agents tell, some ten times a second."""
        while not self._ended.wait(self._settings.worker.event_flush_seconds):
            with _run_forever("event_writer"):
                self._runtime.event_writer.flush()

    @property
    def _consuming(self) -> bool:
        """Whether messages are taken; a `solo` worker takes none while it works on one."""
        if self._closing.begun:
            return False
        busy = self._pool == "solo" and len(self._runtime.active) > 0
        return busy or self._consumer.is_consuming

    def _watch_code(self) -> None:
        """Notice changes of the code that agents run."""
        watch = CodeWatch(self._restart if self._settings.worker.reload else None)
        while not self._ended.wait(_CODE_SECONDS):
            with _run_forever("code-watch"):
                watch.look()

    def _restart(self) -> None:
        if not self._closing.begun:  # another child of prefork was faster
            self._closing.begin()
            end_worker(self._main_pid)

    @property
    def _may_report(self) -> bool:
        """Whether the last report, which may have failed, is long enough ago."""
        return time.monotonic() >= self._report_again

    def _report(self) -> None:
        self._report_again = time.monotonic() + _REPORT_SECONDS
        names, now = self._consumer.names(), time.monotonic()
        consuming = self._consuming
        said = workers.WorkerReport(
            id=self._id,
            hostname=self._hostname,
            pid=self._me.pid,
            pool=self._pool,
            slots=self._slots,
            running=len(self._runtime.active),
            cpu_percent=self._me.cpu_percent(),
            memory_bytes=self._me.memory_info().rss,
            version=__version__,
            queues=names.queues,
            consuming=consuming,
            messages_dropped=self._consumer.dropped_count,
            unknown_tasks=list(names.unknown_tasks),
            unknown_tasks_ages=[now - at for at in names.unknown_tasks.values()],
            lacks=self._runtime.lacks.names,
        )
        if self._runtime.heartbeat.report(said):
            self._reported = consuming


@contextmanager
def _run_forever(thread: str) -> Iterator[None]:
    """Log what goes wrong in a round of a thread that the whole process hangs on, and go on."""
    try:
        yield
    except Exception:
        logger.exception("worker.thread_failed", thread=thread)
