"""The pipes to the worker: messages out, requests and their replies."""

import json
import os
import threading
from collections.abc import Callable, Mapping
from itertools import count
from typing import Any, BinaryIO


class Channel:
    """Speaks JSON lines with the worker. Any thread may use it."""

    def __init__(self, descriptor: int, commands: BinaryIO) -> None:
        """Write to `descriptor`, read what the worker says later from `commands`."""
        self._descriptor = descriptor
        self._commands = commands
        self._sending = threading.Lock()
        self._closed = False
        self._numbers = count(1)
        self._replies: dict[str, Mapping[str, Any]] = {}
        self._arrived = threading.Condition()

    def listen(self, on_soft_limit: Callable[[], None]) -> None:
        """Read the worker's messages in a thread of their own, from now on."""
        threading.Thread(
            target=self._listen, args=(on_soft_limit,), name="worker", daemon=True
        ).start()

    def send(self, message: Mapping[str, Any]) -> None:
        """Send one message; raises TypeError or ValueError where JSON can't hold it."""
        line = _encode(message)
        with self._sending:
            if not self._closed:
                self._write(line)

    def close_with(self, message: Mapping[str, Any]) -> bool:
        """Send the last message; False where another thread has sent one already."""
        line = _encode(message)
        with self._sending:
            if self._closed:
                return False
            self._closed = True
            self._write(line)
            return True

    def ask(self, message: Mapping[str, Any]) -> Mapping[str, Any]:
        """Send a request, under a new `id`, and wait for the reply with the same."""
        key = str(next(self._numbers))
        self.send({**message, "id": key})
        with self._arrived:
            self._arrived.wait_for(lambda: key in self._replies)
            return self._replies.pop(key)

    def _write(self, line: bytes) -> None:
        rest = memoryview(line)
        while rest:
            rest = rest[os.write(self._descriptor, rest) :]

    def _listen(self, on_soft_limit: Callable[[], None]) -> None:
        for line in self._commands:
            message = json.loads(line)
            if message["type"] == "soft_limit":
                on_soft_limit()
            elif "id" in message:
                with self._arrived:
                    self._replies[message["id"]] = message
                    self._arrived.notify_all()


def _encode(message: Mapping[str, Any]) -> bytes:
    text = json.dumps(message, allow_nan=False, ensure_ascii=False)
    return text.encode(errors="replace") + b"\n"
