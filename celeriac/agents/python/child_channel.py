"""Inside the child process: the pipe to the worker, safe with signals, threads and forks.

Imports little, so that a child starts in a tenth of a second.
"""

import itertools
import json
import logging
import os
import queue
import threading
import time
from collections import defaultdict, deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from celeriac.agents.python.base_context import LOG_LEVELS
from celeriac.agents.python.steps import Parking
from celeriac.kit.json_types import JsonObject, storable

if TYPE_CHECKING:
    from celeriac.domain.approvals import Answer

_LEVELS = {getattr(logging, name.upper()): name for name in LOG_LEVELS}


class SignalGate:
    """Raises the exceptions of signal handlers in the main thread, but not while it is held."""

    def __init__(self) -> None:
        self._held = False
        self._pending: BaseException | None = None

    def raise_here(self, error: BaseException) -> None:
        """Raise now, or when the gate is no longer held; for signal handlers."""
        if not self._held:
            raise error
        self._pending = error

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Delay exceptions until the block ends; other threads get none and need no delay."""
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
    """The pipe to the worker. Any thread of this process may send; its forks may not."""

    def __init__(self, descriptor: int) -> None:
        self.signals = SignalGate()
        self._descriptor = descriptor
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._writer: int | None = None
        self._lines: deque[bytes] = deque()

    def send(self, message: JsonObject) -> None:
        """Send one message; raises TypeError or ValueError if it is not JSON."""
        self.send_line(json.dumps(message, allow_nan=False, ensure_ascii=False))

    def send_line(self, text: str) -> None:
        """Send one message that is already JSON text."""
        if os.getpid() != self._pid:
            raise RuntimeError("ctx belongs to the process of the agent; a fork can't use it")
        line = text.encode(errors="replace") + b"\n"
        if self._writer == threading.get_ident():
            # A finaliser or a signal handler logs during a write. The outer call sends the line
            # after its own.
            self._lines.append(line)
            return
        with self.signals.hold(), self._lock:
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
    """Sends log records to the worker, which adds the correlation ids."""

    def __init__(self, channel: Channel) -> None:
        super().__init__()
        self._channel = channel

    def emit(self, record: logging.LogRecord) -> None:
        """Send one record; an error is reported on stderr, as usual for handlers."""
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


class PipeTransport:
    """The transport of `ChildContext`."""

    def __init__(self, channel: Channel, job: JsonObject) -> None:
        """Send to `channel`; `job` has `workdir` and `deadline`, in `time.monotonic()` seconds."""
        self.workdir = Path(job["workdir"])
        self._channel = channel
        self._deadline: float = job["deadline"]
        self._left_when_asked = 0.0
        self._lock = threading.Lock()
        self._numbers = itertools.count(1)
        self._waiting: dict[str, list[queue.SimpleQueue[JsonObject]]] = defaultdict(list)
        self._replies: dict[str, queue.SimpleQueue[JsonObject]] = {}

    def time_left(self) -> float:
        """Return the seconds until the hard limit; they do not pass while a question is open."""
        with self._lock:
            return self._time_left()

    def _time_left(self) -> float:
        return self._left_when_asked if self._waiting else self._deadline - time.monotonic()

    def send(self, message: JsonObject) -> None:
        """Send a message; raises TypeError if it can't be stored."""
        self._channel.send_line(storable(message))

    show = send

    def ask(self, message: JsonObject) -> "Answer":
        """Send an `ask` message and wait for the answer; signals interrupt the wait."""
        from celeriac.domain.approvals import Answer  # slow to import, and few functions ask

        text = storable(message)
        answers: queue.SimpleQueue[JsonObject] = queue.SimpleQueue()
        with self._lock:
            self._left_when_asked = self._time_left()
            self._waiting[message["key"]].append(answers)
        self._channel.send_line(text)
        answer = answers.get()
        if answer["type"] == "park":
            raise Parking
        return Answer(answer["approved"], answer["value"], answer["note"], answer["by"])

    def answered(self, message: JsonObject) -> None:
        """Hand an `answer` message of the worker to the callers that wait for its key."""
        with self._lock:
            waiting = self._waiting.pop(message["key"], [])
            self._deadline = message["deadline"]
        for answers in waiting:
            answers.put(message)

    def request(self, message: JsonObject) -> JsonObject:
        """Send a message of a durable call and wait for its reply; signals interrupt the wait."""
        replies: queue.SimpleQueue[JsonObject] = queue.SimpleQueue()
        with self._lock:
            number = str(next(self._numbers))
            self._replies[number] = replies
        self._channel.send_line(storable({**message, "id": number}))
        return replies.get()

    def replied(self, message: JsonObject) -> None:
        """Hand the worker's reply to a durable call to its caller."""
        with self._lock:
            replies = self._replies.pop(message["id"], None)
            if not self._waiting:
                self._deadline = message["deadline"]
        if replies is not None:
            replies.put(message)
