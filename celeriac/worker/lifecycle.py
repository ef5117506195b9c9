"""The life cycle of a worker process, driven by Celery's signals: start, drain, end."""

import os
import resource
import signal
import sys
import threading
import time
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

import psutil
import structlog
from celery import signals
from celery.worker import state

from celeriac.adapters.celery_queue import pool_refusal
from celeriac.domain.errors import ConfigurationError
from celeriac.kit import collector
from celeriac.kit.child_bootstrap import hide_memory
from celeriac.logs import flush
from celeriac.services.operations.plain_tasks import PlainTaskCounts
from celeriac.services.operations.sweep import Sweep
from celeriac.wiring.core import build_runners
from celeriac.wiring.worker import build_sweep
from celeriac.worker.plain import ParentCounts, connect_counts
from celeriac.worker.process import Worker, WorkerProcess
from celeriac.worker.revoke import follow_revocations
from celeriac.worker.watch import ConsumerWatch

logger = structlog.get_logger(__name__)

_REPLACE_SECONDS = 0.25
"""How often a `prefork` worker replaces children that have ended."""

_EXIT_FAILURE = 1
_LOOK_SECONDS = 0.2
_HAND_BACK_SECONDS = 10.0
"""How long a failed worker may take to hand back its work before it is killed."""

_LAST_SECONDS = 2.0
"""How long Celery may take to end once nothing runs."""


@dataclass(slots=True)
class Lifecycle(Worker):
    """Creates the `WorkerProcess` of this process on first use, and closes it.

    There is one per Celery app, created when the worker's modules are loaded. It holds no resources
    until `process` is called, which in prefork only the children do.
    """

    _process: WorkerProcess | None = None
    _watch: ConsumerWatch | None = None
    _parent: ParentCounts | None = None
    _sweep: Sweep | None = None
    _elsewhere: PlainTaskCounts = field(default_factory=PlainTaskCounts)
    """Of a process that is no worker, such as one that runs tasks eagerly: nobody stores it."""
    _last_task: int | None = None
    """Celery replaces a child of prefork after so many tasks, or"""
    _most_kilobytes: int | None = None
    """once it has needed so much memory."""
    _tasks: int = 0
    _given_up: bool = False
    _closes: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def connect(self) -> None:
        """Connect to Celery's signals."""
        signals.celeryd_after_setup.connect(self._set_up, weak=False)
        signals.worker_ready.connect(self._ready, weak=False)
        signals.worker_process_init.connect(self._child_started, weak=False)
        signals.task_postrun.connect(self._task_ended, weak=False)
        connect_counts(self._plain_counts)
        signals.worker_process_shutdown.connect(self._close, weak=False)
        signals.worker_shutting_down.connect(self._begin_to_close, weak=False)
        signals.worker_shutdown.connect(self._close, weak=False)

    def process(self) -> WorkerProcess:
        """Return the worker process; the first call creates it."""
        if self._process is None:
            with self._lock:
                if self._process is None:
                    self._process = WorkerProcess(self)
        return self._process

    def _plain_counts(self) -> PlainTaskCounts:
        """Return the counts of this process; the parent of prefork has some without executions."""
        if self._parent is not None and os.getpid() == self.main_pid:
            return self._parent.counts
        process = self._process
        return self._elsewhere if process is None else process.plain_counts

    def _set_up(self, sender: str, instance: Any, **_: Any) -> None:
        hide_memory()  # it contains secrets; children of prefork inherit the protection
        self.hostname = sender
        self.main_pid = os.getpid()
        self.pool = instance.pool_cls.__module__.rsplit(".", 1)[-1]
        follow_revocations(self.app, self.settings)
        self.slots = 1 if self.pool == "prefork" else instance.concurrency
        if self.pool == "prefork":
            self._last_task = instance.max_tasks_per_child
            self._most_kilobytes = instance.max_memory_per_child
        # a pool that shrinks kills the processes in which Celery sees nothing run
        self.coroutines = 0 if instance.autoscale else self.settings.worker.coroutines
        refusal = pool_refusal(self.pool)
        if refusal is not None:
            sys.exit(f"error: {refusal}")
        try:
            runners = build_runners(self.settings)
        except ConfigurationError as error:
            # later, Celery would only log it, and consume messages that this worker can't run
            sys.exit(f"error: {error.message}")
        if self.pool == "prefork":
            runners.preload()  # else each new child, and so its first executions, would wait for it

    def give_up(self, reason: str) -> None:
        """Shut this worker down because it can't work; its supervisor starts another.

        Running attempts have the soft shutdown time to end, then they are handed back. Returns at
        once. Further calls do nothing.
        """
        with self._lock:
            if self._given_up or self.shutdown.started:
                return
            self._given_up = True
        logger.critical("worker.gives_up", reason=reason)
        self._begin_to_close()
        state.should_stop = _EXIT_FAILURE
        threading.Thread(target=self._end_by_force, name="give-up", daemon=True).start()

    def _end_by_force(self) -> None:
        """Kill the process if Celery doesn't end it: its main thread may be stuck."""
        until = time.monotonic() + self.settings.celery.worker_soft_shutdown_timeout
        while time.monotonic() < until and (state.active_requests or self.counts.total):
            time.sleep(_LOOK_SECONDS)
        self.shutdown.drain()
        until = time.monotonic() + _HAND_BACK_SECONDS
        while time.monotonic() < until and (self.pool == "prefork" or self._runs_any):
            time.sleep(_LOOK_SECONDS)
        time.sleep(_LAST_SECONDS)
        logger.critical("worker.ended_by_force")
        if self.pool == "prefork":
            for child in psutil.Process().children():
                child.kill()
        else:
            self._close()
        flush()
        os._exit(_EXIT_FAILURE)

    @property
    def _runs_any(self) -> bool:
        return self._process is not None and self._process.running > 0

    def _ready(self, sender: Any, **_: Any) -> None:
        stall_seconds = self.settings.worker.stall_seconds
        self._watch = ConsumerWatch(sender, self.consumer, self.app, stall_seconds, self.give_up)
        self._watch.start()
        if self.pool != "prefork":
            try:
                self.process()
            except Exception as error:
                logger.exception("worker.not_built")
                self.give_up(f"it can't be built: {error}")
                return
        else:
            self._parent = ParentCounts(self.settings, self.hostname, sender.pool)
            if sender.hub is not None:
                # Celery learns of a child's end a moment before the child has ended, and checks
                # again only 5 s later. Until then its slot, and its message, are stuck.
                sender.hub.call_repeatedly(_REPLACE_SECONDS, sender.pool.maintain_pool)
        self._sweep = build_sweep(self.settings)
        self._sweep.start()
        self._follow_sigquit()
        collector.leave_out()

    def _follow_sigquit(self) -> None:
        """Hand back at once on SIGQUIT, before Celery's cold shutdown kills the pool.

        Celery reports that signal only after its own grace time, and then fails to end the running
        tasks of its threads pool: the worker would never end.
        """
        celerys, worker = signal.getsignal(signal.SIGQUIT), os.getpid()

        def hand_back(number: int, frame: FrameType | None) -> None:
            if os.getpid() == worker:
                self.shutdown.drain()
                # Celery waits for what is in its slots alone
                until = time.monotonic() + _HAND_BACK_SECONDS
                while time.monotonic() < until and self.counts.total and not state.active_requests:
                    time.sleep(_LOOK_SECONDS)
            if callable(celerys):
                celerys(number, frame)

        signal.signal(signal.SIGQUIT, hand_back)

    def _child_started(self, **_: Any) -> None:
        # `solo` sends this for the worker itself, before its name is known
        if self.pool == "prefork":
            self.process()
            collector.leave_out()

    def _task_ended(self, **_: Any) -> None:
        """Before the last task of a child of prefork ends, wait for what runs without a slot.

        Its slot is busy meanwhile: a message that the child received now would wait for nothing.
        """
        if self.pool != "prefork" or self._process is None:
            return
        self._tasks += 1
        last = self._last_task is not None and self._tasks >= self._last_task
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        if last or (self._most_kilobytes is not None and memory > self._most_kilobytes):
            self._process.wait_until_idle()

    def _begin_to_close(self, **_: Any) -> None:
        """Take nothing new; once only.

        A second signal may interrupt the handler of the first, and would deadlock on its locks.
        """
        if self._closes:
            return
        self._closes = True
        grace = self.settings.celery.worker_soft_shutdown_timeout
        logger.info("worker.shutting_down", grace_seconds=grace)
        self.shutdown.start()
        if self._watch is not None:
            self._watch.stop()
        if self._sweep is not None:
            self._sweep.stop()
        timer = threading.Timer(grace, self.shutdown.drain)
        timer.daemon = True
        timer.start()

    def _close(self, **_: Any) -> None:
        with self._lock:
            process, self._process = self._process, None
        if process is not None:
            process.close()
        if self._parent is not None and os.getpid() == self.main_pid:
            self._parent.close()
