"""Questions of Python functions, in process and in child processes."""

import hashlib
import json
import queue
import threading
import time
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from celeriac.agents.python.child_channel import Channel
from celeriac.kit.json_types import checked


def ask_message(
    title: str,
    *,
    key: str | None,
    schema: Mapping[str, Any] | None,
    expires_seconds: float | None,
    on_expiry: str | None,
    default: Any,
) -> dict[str, Any]:
    """Return a question to a person: free, or with a schema a form."""
    content = {"kind": "form" if schema else "question", "title": title, "schema": schema}
    return {
        "type": "ask",
        "key": key or _key_of(content),
        **content,
        "expires_seconds": expires_seconds,
        "on_expiry": on_expiry,
        "default": checked(default),
    }


def approve_message(
    tool: str,
    arguments: Mapping[str, Any] | None,
    *,
    key: str | None,
    title: str | None,
    expires_seconds: float | None,
    on_expiry: str | None,
) -> dict[str, Any]:
    """Return the question whether a tool may be called."""
    content = {"kind": "tool", "tool": tool, "arguments": dict(arguments or {})}
    return {
        "type": "ask",
        "key": key or _key_of(content),
        **content,
        "title": title or f"May {tool} be called?",
        "expires_seconds": expires_seconds,
        "on_expiry": on_expiry,
    }


def _key_of(content: Mapping[str, Any]) -> str:
    """Return the same key in every attempt for the same question."""
    text = json.dumps(checked(content), sort_keys=True)
    return f"{content['kind']}-{hashlib.sha256(text.encode()).hexdigest()[:32]}"


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
