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

    def send(self, message: Mapping[str, Any], *, last: bool = False) -> bool:
        """Send one message; False where a thread has sent the last one already.

        Raises TypeError or ValueError where JSON can't hold it.
        """
        text = json.dumps(message, allow_nan=False, ensure_ascii=False)
        rest = memoryview(text.encode(errors="replace") + b"\n")
        with self._sending:
            if self._closed:
                return False
            self._closed = last
            while rest:
                rest = rest[os.write(self._descriptor, rest) :]
            return True

    def _listen(self, on_soft_limit: Callable[[], None]) -> None:
        for line in self._commands:
            message = json.loads(line)
            if message["type"] == "soft_limit":
                on_soft_limit()
