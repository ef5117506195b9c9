"""From Celery's signals to the life of a worker process: start, drain, end."""

import os
import signal
import threading
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

import structlog
from celery import Celery, signals

from celeriac.kit.guard import hide_memory
from celeriac.settings import Settings
from celeriac.worker.process import Closing, WorkerProcess

logger = structlog.get_logger(__name__)

_REPLACE_SECONDS = 0.25
"""How often a worker looks for children of `prefork` that have ended, to start others."""


@dataclass(slots=True)
class Lifecycle:
    """Makes the `WorkerProcess` of this process when it is first needed, and ends it.

    One is made per Celery app, when the worker's modules are loaded; it holds no resources until
    `process` is called, which in prefork happens in the children only.
    """

    app: Celery
    settings: Settings
    closing: Closing = field(default_factory=Closing)
    hostname: str = "worker"
    pool: str = "solo"
    slots: int = 1
    _process: WorkerProcess | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def connect(self) -> None:
        """Follow Celery's signals."""
        signals.celeryd_after_setup.connect(self._set_up, weak=False)
        signals.worker_ready.connect(self._ready, weak=False)
        signals.worker_process_init.connect(self._child_started, weak=False)
        signals.worker_process_shutdown.connect(self._child_ends, weak=False)
        signals.worker_shutting_down.connect(self._shutting_down, weak=False)
        signals.worker_shutdown.connect(self._shut_down, weak=False)

    def process(self) -> WorkerProcess:
        """Return the worker process, made at the first call."""
        if self._process is None:
            with self._lock:
                if self._process is None:
                    self._process = WorkerProcess(
                        self.settings,
                        self.app,
                        self.closing,
                        hostname=self.hostname,
                        pool=self.pool,
                        slots=self.slots,
                    )
        return self._process

    def _set_up(self, sender: str, instance: Any, **_: Any) -> None:
        hide_memory()  # it holds secrets; children of prefork inherit this
        self.hostname = sender
        self.pool = instance.pool_cls.__module__.rsplit(".", 1)[-1]
        self.slots = 1 if self.pool == "prefork" else instance.concurrency

    def _ready(self, sender: Any, **_: Any) -> None:
        if self.pool != "prefork":
            self.process()
        elif sender.hub is not None:
            # Celery hears of a child's end a moment before the child has ended, and as a rule
            # looks again only 5 s later; until then its slot, and the message it got, are stuck.
            sender.hub.call_repeatedly(_REPLACE_SECONDS, sender.pool.maintain_pool)
        self._follow_sigquit()

    def _follow_sigquit(self) -> None:
        """Hand back at once at a SIGQUIT, before Celery's cold shutdown ends the pool by force.

        Celery says nothing of that signal until it has waited for its own grace time, and its
        threads pool then fails at ending what still runs: the worker would never end.
        """
        celerys, worker = signal.getsignal(signal.SIGQUIT), os.getpid()

        def hand_back(number: int, frame: FrameType | None) -> None:
            if os.getpid() == worker:
                self.closing.drain()
            if callable(celerys):
                celerys(number, frame)

        signal.signal(signal.SIGQUIT, hand_back)

    def _child_started(self, **_: Any) -> None:
        # `solo` says this of the worker itself, long before anybody knows its name
        if self.pool == "prefork":
            self.process()

    def _child_ends(self, **_: Any) -> None:
        self._close()

    def _shutting_down(self, **_: Any) -> None:
        grace = self.settings.celery.worker_soft_shutdown_timeout
        logger.info("worker.shutting_down", grace_seconds=grace)
        self.closing.begin()
        timer = threading.Timer(grace, self.closing.drain)
        timer.daemon = True
        timer.start()

    def _shut_down(self, **_: Any) -> None:
        self._close()

    def _close(self) -> None:
        with self._lock:
            process, self._process = self._process, None
        if process is not None:
            process.close()
