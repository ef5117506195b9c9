"""Inside the child process: the way out to the worker, safe from signals, threads and forks.

Standard library only: a child starts in a tenth of a second.
"""

import json
import logging
import os
import threading
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

_LEVELS = {
    logging.DEBUG: "debug",
    logging.INFO: "info",
    logging.WARNING: "warning",
    logging.ERROR: "error",
    logging.CRITICAL: "critical",
}


class Interrupts:
    """Exceptions that signal handlers raise in the main thread, but never amid a message."""

    def __init__(self) -> None:
        self._held = False
        self._pending: BaseException | None = None

    def raise_here(self, error: BaseException) -> None:
        """Called by a signal handler: raise now, or as soon as nothing is held any more."""
        if not self._held:
            raise error
        self._pending = error

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Keep interrupts out of the block; in other threads, which get none, do nothing."""
        if self._held or threading.current_thread() is not threading.main_thread():
            yield
            return
        self._held = True
        try:
            yield
        finally:
            self._held = False
            pending, self._pending = self._pending, None
            if pending is not None:
                raise pending


class Channel:
    """The pipe to the worker. Any thread may send, but only this process, not a fork of it."""

    def __init__(self, descriptor: int) -> None:
        self.interrupts = Interrupts()
        self._descriptor = descriptor
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._writer: int | None = None
        self._lines: deque[bytes] = deque()

    def send(self, message: Mapping[str, Any]) -> None:
        """Send one message; raises TypeError or ValueError where JSON can't hold it."""
        self.send_line(json.dumps(message, allow_nan=False, ensure_ascii=False))

    def send_line(self, text: str) -> None:
        """Send one message that is JSON text already."""
        if os.getpid() != self._pid:
            raise RuntimeError("ctx belongs to the process of the agent; a fork can't use it")
        line = text.encode(errors="replace") + b"\n"
        if self._writer == threading.get_ident():
            # From within ourselves: a finaliser or a signal handler that logs. The outer call
            # sends it when its own line is out.
            self._lines.append(line)
            return
        with self.interrupts.hold(), self._lock:
            self._writer = threading.get_ident()
            try:
                self._lines.append(line)
                while self._lines:
                    self._write(self._lines.popleft())
            finally:
                self._writer = None

    def _write(self, line: bytes) -> None:
        rest = memoryview(line)
        while rest:
            rest = rest[os.write(self._descriptor, rest) :]


class ChannelHandler(logging.Handler):
    """Sends the records of Python's logging to the worker, which adds the correlation ids."""

    def __init__(self, channel: Channel) -> None:
        super().__init__()
        self._channel = channel

    def emit(self, record: logging.LogRecord) -> None:
        """Send one record; a fault in it is reported on stderr, as logging does."""
        try:
            self._channel.send(
                {
                    "type": "log",
                    "level": _LEVELS.get(record.levelno, "info"),
                    "message": self.format(record),
                    "logger": record.name,
                }
            )
        except (TypeError, ValueError, RuntimeError):
            self.handleError(record)
