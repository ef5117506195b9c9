"""Dispatch: the only code that sends executions to the broker.

The broker holds a short window of messages per queue. The rest stays `pending` in PostgreSQL, which
knows the order. A worker that finishes an execution claims the next pending one itself, so the
window only has to keep idle slots busy (docs/adr/0002).

A row is committed as `queued` before its message is sent, so a message never meets a row that is
not ready for it. If the process dies in between, a `queued` row has no message: the keeper finds it
and sends another.
"""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from uuid import UUID

import structlog

from celeriac import traces
from celeriac.db import workers
from celeriac.db.engine import Database
from celeriac.db.executions import children, lifecycle
from celeriac.domain.errors import BrokerUnavailableError, DatabaseUnavailableError
from celeriac.domain.executions.model import QueuedMessage
from celeriac.kit.threads import Threads
from celeriac.logs import Step
from celeriac.services.executions.fair_turns import FairTurns
from celeriac.services.ports import LiveEvents, TaskQueue

logger = structlog.get_logger(__name__)

_BROKER_SECONDS = 2.0
"""Seconds without sending after the broker failed, so that callers don't all wait for it."""

_MESSAGES_PER_SLOT = 2
"""With one, slots are idle until the keeper's next turn after they have ended several at once."""

_WINDOW_WITHOUT_WORKERS = 16
"""For workers that are starting: they report when they are ready."""

_RELEASED_AT_ONCE = 500
_SLOTS_KNOWN_FOR = 2.0
WORKER_SEEN_WITHIN = 30.0
"""Seconds after its last report during which a worker process counts as live."""


class Dispatch:
    """Sends due executions. Safe to share between threads."""

    def __init__(self, database: Database, queue: TaskQueue, live: LiveEvents) -> None:
        self._database = database
        self._queue = queue
        self.live = live
        self.turns = FairTurns(database)
        self._broker_away_until = 0.0
        self._slots: Mapping[str | None, int] = {}
        self._slots_until = 0.0
        self._counting = threading.Lock()

    def capacity(self, queue: str) -> int:
        """Return how many messages `queue` may have out now: two per slot of its live workers.

        16 if there are none, for workers that are starting; 0 for two seconds after a broker error.
        Reads the workers' rows every two seconds at most; raises DatabaseUnavailableError.
        """
        if self._broker_away:
            return 0
        slots = self._known_slots()
        return _window(slots.get(queue, 0) + slots.get(None, 0))

    def _known_slots(self) -> Mapping[str | None, int]:
        if time.monotonic() >= self._slots_until and self._counting.acquire(blocking=False):
            try:
                with self._database.autocommit() as connection:
                    self._slots = workers.slots(connection, within_seconds=WORKER_SEEN_WITHIN)
                self._slots_until = time.monotonic() + _SLOTS_KNOWN_FOR
            finally:
                self._counting.release()
        return self._slots

    def release_due(self) -> int:
        """Release executions that were held until now; return how many, at most 500.

        Raises DatabaseUnavailableError.
        """
        with self._database.autocommit() as connection:
            return lifecycle.release_due(connection, limit=_RELEASED_AT_ONCE)

    def send_due(self) -> int:
        """Release what has become due, and send as `send_eligible` does."""
        if self._broker_away:
            return 0
        self.release_due()
        return self.send_eligible()

    def send_eligible(self) -> int:
        """Send what is eligible, in order, up to each queue's window; return how many were sent.

        Raises DatabaseUnavailableError.
        """
        if self._broker_away:
            return 0
        slots = self._known_slots()
        anywhere = slots.get(None, 0)
        windows = {
            queue: _window(count + anywhere) for queue, count in slots.items() if queue is not None
        }
        other = _window(anywhere)
        shares = self.turns.known(lambda queue: windows.get(queue, other))
        with self._database.autocommit() as connection:
            due = lifecycle.queue_due(connection, windows, other_window=other, shares=shares)
        for name in {item.queue for item in due}:
            self.turns.found(name)
        if not self.send(due):
            return 0
        self.live.changed([item.message.execution_id for item in due])
        return len(due)

    def after_ends(self, execution_ids: Sequence[UUID]) -> None:
        """Send what the ends of these executions have made due. Never raises.

        Only the end of a child makes others due: its parent, or children that were held back.
        """
        if not execution_ids:
            return
        try:
            with self._database.autocommit() as connection:
                found = children.any_of(connection, execution_ids)
        except DatabaseUnavailableError as error:
            logger.warning("dispatch.left_to_keeper", error=error.message)
            return
        if found:
            self.try_to_send()

    def try_to_send(self) -> None:
        """Send as `send_eligible` does; the keeper sends what can't be sent now. Never raises."""
        try:
            self.send_eligible()
        except DatabaseUnavailableError as error:
            logger.warning("dispatch.left_to_keeper", error=error.message)
        except Exception:  # what is due is committed, and the caller has other work
            logger.exception("dispatch.left_to_keeper")

    @property
    def _broker_away(self) -> bool:
        return time.monotonic() < self._broker_away_until

    def send(self, messages: Sequence[QueuedMessage]) -> bool:
        """Send the messages of rows that were committed as `queued`; False if the broker failed.

        Then the rows go back to `pending`, or stay `queued` if the database is unavailable too, and
        the keeper sends them later.
        """
        if not messages:
            return True
        try:
            with traces.part("send messages", "producer", count=len(messages)):
                self._queue.send(messages)
        except BrokerUnavailableError as error:
            self._broker_away_until = time.monotonic() + _BROKER_SECONDS
            self._unqueue(messages, error)
            return False
        for item in messages:
            logger.info(
                Step.EXECUTION_QUEUED,
                **item.cause.ids(),
                execution_id=item.message.execution_id,
                celery_task_id=item.message.celery_task_id,
                queue=item.queue,
            )
        return True

    def _unqueue(self, messages: Sequence[QueuedMessage], error: BrokerUnavailableError) -> None:
        logger.warning("dispatch.broker_unavailable", error=error.message, count=len(messages))
        try:
            with self._database.autocommit() as connection:
                lifecycle.unqueue(
                    connection,
                    {item.message.execution_id: item.message.celery_task_id for item in messages},
                    delay=_BROKER_SECONDS,
                    reason="broker_unavailable",
                )
        except DatabaseUnavailableError:
            logger.warning("dispatch.not_taken_back", count=len(messages))


class SendSoon:
    """Sends what is eligible in a thread of its own, so that no slot waits for it."""

    def __init__(self, send: Callable[[], None]) -> None:
        """Send by `send`, which raises nothing."""
        self._send = send
        self._threads = Threads("dispatch", 1)
        self._lock = threading.Lock()
        self._waiting = False

    def __call__(self) -> None:
        """Send soon, once for all calls until then; returns at once and raises nothing."""
        with self._lock:
            if self._waiting:
                return
            self._waiting = True
        try:
            self._threads.submit(self._begin)
        except (RuntimeError, MemoryError) as error:  # no thread is left, or the process ends
            self._waiting = False
            logger.warning("dispatch.left_to_keeper", error=str(error))

    def close(self) -> None:
        """Begin no more."""
        self._threads.shutdown(wait=False)

    def _begin(self) -> None:
        with self._lock:
            self._waiting = False  # what becomes due from now on may not be seen
        self._send()


def _window(slots: int) -> int:
    """Return how many messages a queue may have out whose live workers have so many slots."""
    return slots * _MESSAGES_PER_SLOT or _WINDOW_WITHOUT_WORKERS
