"""Streaming output for those who watch, in pieces that are neither late nor too many."""

import asyncio
from typing import Literal

from celeriac.kit.jsontypes import storable_text
from celeriac.services.ports import RunContext

INTERVAL_SECONDS = 0.05

Kind = Literal["text", "thinking"]


class Deltas:
    """Joins what a model says within 50 ms into one delta, `{"text": …}` or `{"thinking": …}`.

    Belongs to an event loop; `flush` after the last piece.
    """

    def __init__(self, context: RunContext) -> None:
        """Send to whoever watches `context`."""
        self._context = context
        self._kind: Kind = "text"
        self._pieces: list[str] = []
        self._timer: asyncio.TimerHandle | None = None

    def add(self, kind: Kind, piece: str) -> None:
        """Take a piece; it goes out within the interval."""
        if not piece:
            return
        if kind != self._kind:
            self.flush()
            self._kind = kind
        self._pieces.append(piece)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(INTERVAL_SECONDS, self.flush)

    def flush(self) -> None:
        """Send what is gathered."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._pieces:
            text = "".join(self._pieces)
            self._pieces.clear()
            self._context.delta({self._kind: storable_text(text)})
