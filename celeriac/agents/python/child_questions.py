"""Inside the child process: questions to people, and the threads that wait for the answers."""

import queue
import threading
import time
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from celeriac.agents.python.child_channel import Channel


class ChildQuestions:
    """Sends questions to the worker and hands its answers to who waits for them."""

    def __init__(self, channel: Channel, deadline: float) -> None:
        """Ask over `channel`; `deadline` is the hard limit in `time.monotonic()` seconds."""
        self._channel = channel
        self._deadline = deadline
        self._left_when_asked = 0.0
        self._lock = threading.Lock()
        self._waiting: dict[str, list[queue.SimpleQueue[Mapping[str, Any]]]] = defaultdict(list)

    def time_left(self) -> float:
        """Return the seconds until the hard limit; they stand still while a question is open."""
        with self._lock:
            return self._time_left()

    def _time_left(self) -> float:
        return self._left_when_asked if self._waiting else self._deadline - time.monotonic()

    def ask(self, message: Mapping[str, Any]) -> Mapping[str, Any]:
        """Send an `ask` message and return its `answer` message; signals interrupt the waiting."""
        answers: queue.SimpleQueue[Mapping[str, Any]] = queue.SimpleQueue()
        with self._lock:
            self._left_when_asked = self._time_left()
            self._waiting[message["key"]].append(answers)
        self._channel.send(message)
        return answers.get()

    def answered(self, message: Mapping[str, Any]) -> None:
        """Take an `answer` message of the worker; whoever asked under its key gets it."""
        with self._lock:
            waiting = self._waiting.pop(message["key"], [])
            self._deadline = message["deadline"]
        for answers in waiting:
            answers.put(message)
