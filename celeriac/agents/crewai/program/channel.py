"""The pipes to the worker: messages out, the soft limit in."""

import json
import os
import threading
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO


class Channel:
    """Exchanges JSON lines with the worker. Any thread may use it."""

    def __init__(self, descriptor: int, commands: BinaryIO) -> None:
        """Write to `descriptor`, read the worker's later messages from `commands`."""
        self._descriptor = descriptor
        self._commands = commands
        self._sending = threading.Lock()
        self._closed = False

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

    def _write(self, line: bytes) -> None:
        rest = memoryview(line)
        while rest:
            rest = rest[os.write(self._descriptor, rest) :]

    def _listen(self, on_soft_limit: Callable[[], None]) -> None:
        for line in self._commands:
            message = json.loads(line)
            if message["type"] == "soft_limit":
                on_soft_limit()


def _encode(message: Mapping[str, Any]) -> bytes:
    text = json.dumps(message, allow_nan=False, ensure_ascii=False)
    return text.encode(errors="replace") + b"\n"
