"""What a server writes to its stderr: read in a thread, and kept within bounds.

A server may write hundreds of thousands of lines. Neither the event loop, which other runs share,
nor the log has room for them: lines beyond a rate are counted and dropped, the last ones are kept.
"""

import asyncio
import os
import select
import threading
import time
from collections import deque
from contextlib import suppress

from celeriac.agents.child.lines import LineSplitter

BURST = 500
"""Lines that are passed on at once."""
PER_SECOND = 50
"""Lines that are passed on in each second after that."""
KEPT_LINES = 20

_READ_BYTES = 65_536
_TAIL_BYTES = 16_384
"""Bytes of dropped output of which the last lines are kept."""
_STOP_SECONDS = 0.3
"""How long is still read after the server's end; what it has started may go on writing."""
_PAUSE_SECONDS = 0.005
"""Between reads of what is dropped: a server that writes faster waits for its own pipe."""


class StderrReader:
    """Reads one pipe to its end; `lines` are what is passed on, in order, None at the end.

    Belongs to the event loop on which it is made.
    """

    def __init__(self, descriptor: int) -> None:
        """Take over the reading end of a pipe."""
        self.lines: asyncio.Queue[list[str] | None] = asyncio.Queue()
        self.ended = asyncio.Event()
        """Set once all is read."""
        self._loop = asyncio.get_running_loop()
        self._descriptor = descriptor
        self._wake, self._waker = os.pipe()
        self._lock = threading.Lock()
        self._last: deque[str] = deque(maxlen=KEPT_LINES)
        self._tail = b""
        self._dropped = 0
        self._allowance = float(BURST)
        self._at = time.monotonic()
        self._thread = threading.Thread(target=self._run, name="mcp stderr", daemon=True)
        self._thread.start()

    @property
    def last(self) -> list[str]:
        """The last lines, among them those that were dropped."""
        with self._lock:
            if not self._tail:
                return list(self._last)
            splitter = LineSplitter()
            lines = [*splitter.feed(self._tail), *splitter.rest()]
            return lines[-KEPT_LINES:]

    async def stop(self) -> None:
        """Read what has been written by now, and end."""
        os.close(self._waker)
        await self.ended.wait()
        self._thread.join()

    def _run(self) -> None:
        try:
            self._read()
        finally:
            os.close(self._descriptor)
            os.close(self._wake)
            with suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._end)

    def _end(self) -> None:
        self.lines.put_nowait(None)
        self.ended.set()

    def _read(self) -> None:
        poll = select.poll()
        poll.register(self._descriptor, select.POLLIN)
        poll.register(self._wake, select.POLLIN)
        splitter = LineSplitter()
        until: float | None = None
        while until is None or time.monotonic() < until:
            ready = {descriptor for descriptor, _ in poll.poll(None if until is None else 0)}
            if self._wake in ready:
                until = time.monotonic() + _STOP_SECONDS
                poll.unregister(self._wake)
            if self._descriptor in ready:
                chunk = os.read(self._descriptor, _READ_BYTES)
                if not chunk:
                    break
                self._take(chunk, splitter, stopping=until is not None)
            elif until is not None:
                break
        self._pass_on(splitter.rest())
        if self._dropped:
            self._send([f"[{self._dropped:,} lines of stderr were dropped]"])

    def _take(self, chunk: bytes, splitter: LineSplitter, *, stopping: bool) -> None:
        self._earn()
        count = chunk.count(b"\n") or 1
        if count <= self._allowance:
            self._allowance -= count
            with self._lock:
                self._tail = b""
            self._pass_on(splitter.feed(chunk))
            return
        splitter.rest()
        if not self._dropped:
            self._send(["[more lines of stderr than are kept: only the last ones are]"])
        self._dropped += count
        with self._lock:
            self._tail = (self._tail + chunk)[-_TAIL_BYTES:]
        if not stopping:
            time.sleep(_PAUSE_SECONDS)

    def _earn(self) -> None:
        now = time.monotonic()
        self._allowance = min(self._allowance + (now - self._at) * PER_SECOND, float(BURST))
        self._at = now

    def _pass_on(self, lines: list[str]) -> None:
        if lines:
            with self._lock:
                self._last.extend(lines)
            self._send(lines)

    def _send(self, lines: list[str]) -> None:
        with suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self.lines.put_nowait, lines)
