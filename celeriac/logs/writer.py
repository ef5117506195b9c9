"""Writes log lines in the background: callers queue them, one thread writes them in batches."""

import os
import threading
import weakref
from collections.abc import Callable
from contextlib import suppress
from queue import Empty, SimpleQueue

from celeriac.kit.words import counted
from celeriac.logs.destinations import Destinations, Entry, complain

_FORK_SECONDS = 2.0
"""The longest that a fork waits for the batch that is being written."""


class _Mark:
    """An item of the queue; `done` is set once everything before it is written."""

    def __init__(self, *, stop: bool) -> None:
        self.stop = stop
        self.done = threading.Event()


class Writer:
    """Writes entries within `interval` seconds, in the order of submission.

    The thread starts with the first entry. It is stopped before a fork, so that no child inherits a
    half-written batch; parent and child each start their own with their next entry. The queue is
    reentrant, because signal handlers log. While `capacity` entries wait (the disk or the reader of
    the console is stuck), new ones are counted as lost: `submit` never blocks.
    """

    def __init__(
        self,
        destinations: Destinations,
        *,
        interval: float = 0.2,
        capacity: int = 50_000,
    ) -> None:
        self._destinations = destinations
        self._interval = interval
        self._capacity = capacity
        self._closed = False
        self._reset()
        _follow_forks(self)

    def submit(self, entry: Entry) -> None:
        """Queue `entry`. Never blocks, and never raises for a destination that fails."""
        if self._queue.qsize() >= self._capacity:
            self._overflow += 1
            return
        self._queue.put(entry)
        if self._thread is None and not self._forking:
            self._start()

    def flush(self, timeout: float = 5.0) -> bool:
        """Wait until all earlier entries are written; return False after `timeout` seconds."""
        return self._pass_mark(stop=False, timeout=timeout)

    def close(self, timeout: float = 5.0) -> bool:
        """Write what is left and stop; the calling thread itself writes later entries.

        Returns False after `timeout` seconds. Reports what is lost on stderr.
        """
        self._closed = True
        done = self._pass_mark(stop=True, timeout=timeout)
        if not done:
            complain(
                f"gave up after {timeout:g} s with {counted(self._queue.qsize(), 'line')} unwritten"
            )
        elif not self._queue.empty():
            self._start()
        for kind, lines in self._destinations.lost().items():
            complain(f"lost {counted(lines, 'line')} for {kind}")
        return done

    def pause(self) -> None:
        """Stop the thread before a fork."""
        self._forking = True
        self._pass_mark(stop=True, timeout=_FORK_SECONDS)

    def resume(self) -> None:
        """Continue after a fork, in the parent."""
        self._forking = False
        if not self._queue.empty():
            self._start()

    def restart(self) -> None:
        """Start over after a fork, in the child: the parent writes what waits."""
        self._destinations.reset()
        self._reset()

    def _reset(self) -> None:
        self._queue: SimpleQueue[Entry | _Mark] = SimpleQueue()
        self._starting = threading.RLock()  # reentrant: a signal may interrupt its holder
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None
        self._forking = False
        self._overflow = 0

    def _start(self) -> None:
        with self._starting:
            if self._thread is not None:
                return
            if self._closed:
                self._write_batch(self._gather())
                return
            thread = threading.Thread(target=self._run, name="celeriac-logs", daemon=True)
            try:
                thread.start()
            except RuntimeError:  # the interpreter is shutting down
                self._write_batch(self._gather())
            else:
                self._thread = thread

    def _pass_mark(self, *, stop: bool, timeout: float) -> bool:
        thread = self._thread
        if thread is None:
            return True
        mark = _Mark(stop=stop)
        self._queue.put(mark)
        self._wake.set()
        done = mark.done.wait(timeout)
        if stop and done:
            thread.join(timeout)
        return done

    def _run(self) -> None:
        stopped = False
        while not stopped:
            first = self._queue.get()
            self._wake.wait(self._interval)  # collect a batch, unless `flush` waits for it
            self._wake.clear()
            marks = self._write_batch([first, *self._gather()])
            stopped = any(mark.stop for mark in marks)
            if stopped:
                self._thread = None
            for mark in marks:
                mark.done.set()

    def _gather(self) -> list[Entry | _Mark]:
        batch: list[Entry | _Mark] = []
        with suppress(Empty):
            while True:
                batch.append(self._queue.get_nowait())
        return batch

    def _write_batch(self, batch: list[Entry | _Mark]) -> list[_Mark]:
        """Write the entries and return the marks, to be answered."""
        entries = [item for item in batch if isinstance(item, Entry)]
        overflow, self._overflow = self._overflow, 0
        if entries or overflow:
            self._destinations.write(entries, overflow=overflow)
        return [item for item in batch if isinstance(item, _Mark)]


def _follow_forks(writer: Writer) -> None:
    """Call `writer` around forks while it exists; such hooks can't be removed."""

    def hook(method: Callable[[], None]) -> Callable[[], None]:
        weak = weakref.WeakMethod(method)

        def call() -> None:
            if (present := weak()) is not None:
                present()

        return call

    os.register_at_fork(
        before=hook(writer.pause),
        after_in_parent=hook(writer.resume),
        after_in_child=hook(writer.restart),
    )
