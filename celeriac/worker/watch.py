"""Detects a worker that has free slots but takes none of the waiting messages."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import structlog
from celery import Celery

from celeriac.adapters.celery_queue import waiting_messages
from celeriac.domain.errors import BrokerUnavailableError
from celeriac.worker.status import ConsumerStatus

logger = structlog.get_logger(__name__)

_LONGEST_PAUSE = 5.0
_LOOKS = 4


@dataclass(eq=False, repr=False)
class ConsumerWatch:
    """A thread that calls `on_stall` once messages have waited beside free slots for `seconds`.

    It reads the broker over connections of its own. While the broker doesn't answer, the consumer
    is not considered stalled.
    """

    consumer: Any
    status: ConsumerStatus
    app: Celery
    seconds: float
    on_stall: Callable[[str], None]
    _stopped: threading.Event = field(default_factory=threading.Event, init=False)

    def start(self) -> None:
        """Start the thread."""
        threading.Thread(target=self._run, name="consumer-watch", daemon=True).start()

    def stop(self) -> None:
        """Stop the thread without waiting for it."""
        self._stopped.set()

    def _run(self) -> None:
        pause = min(self.seconds / _LOOKS, _LONGEST_PAUSE)
        since: float | None = None
        while not self._stopped.wait(pause):
            try:
                stalled = self._stalls(pause)
            except BrokerUnavailableError:
                stalled = False
            except Exception:
                logger.exception("worker.thread_failed", thread="consumer-watch")
                stalled = False
            if not stalled:
                since = None
                continue
            since = since or time.monotonic()
            if time.monotonic() - since >= self.seconds and not self._stopped.is_set():
                self.on_stall(
                    f"messages have waited for {self.seconds:g} s despite free slots; the "
                    "consumer takes none"
                )
                return

    def _stalls(self, pause: float) -> bool:
        """Whether messages wait that the consumer should have taken since the last check."""
        if time.monotonic() - self.status.took_at < pause or self.consumer.free_slots <= 0:
            return False
        return waiting_messages(self.app, self.consumer.open_queues) > 0
