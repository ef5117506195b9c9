"""Watches a worker that has free slots while messages wait for it."""

import threading
import time
from collections.abc import Callable
from typing import Any

import structlog
from celery import Celery

from celeriac.adapters.celery_queue import waiting_messages
from celeriac.domain.errors import BrokerUnavailableError
from celeriac.worker.status import ConsumerStatus

logger = structlog.get_logger(__name__)

_LONGEST_PAUSE = 5.0
_LOOKS = 4


class ConsumerWatch:
    """A thread that finds out whether the consumer takes what it should take.

    It looks at the broker over connections of its own. While that doesn't answer, nobody can take
    anything, and the consumer is not to blame.
    """

    def __init__(
        self,
        consumer: Any,
        status: ConsumerStatus,
        app: Celery,
        *,
        seconds: float,
        on_stall: Callable[[str], None],
    ) -> None:
        """Call `on_stall` once messages have waited beside free slots for `seconds`."""
        self._consumer = consumer
        self._status = status
        self._app = app
        self._seconds = seconds
        self._on_stall = on_stall
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="consumer-watch", daemon=True)

    def start(self) -> None:
        """Begin to watch."""
        self._thread.start()

    def stop(self) -> None:
        """Stop watching, without waiting for the thread."""
        self._stopped.set()

    def _run(self) -> None:
        pause = min(self._seconds / _LOOKS, _LONGEST_PAUSE)
        since: float | None = None
        while not self._stopped.wait(pause):
            try:
                neglected = self._neglects(pause)
            except BrokerUnavailableError:
                neglected = False
            except Exception:
                logger.exception("worker.thread_failed", thread="consumer-watch")
                neglected = False
            if not neglected:
                since = None
                continue
            since = since or time.monotonic()
            if time.monotonic() - since >= self._seconds and not self._stopped.is_set():
                self._on_stall(
                    f"messages have waited for {self._seconds:g} s beside free slots, and the "
                    "consumer takes none"
                )
                return

    def _neglects(self, pause: float) -> bool:
        """Whether messages wait that the consumer should have taken since the last look."""
        if time.monotonic() - self._status.took_at < pause or self._consumer.free_slots <= 0:
            return False
        return waiting_messages(self._app, self._consumer.open_queues) > 0
