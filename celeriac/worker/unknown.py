"""Messages of tasks that this worker doesn't know: other workers may know them.

Celery's own consumer discards them. Here they go back to their queue. So that a task that no worker
knows costs little, a worker that finds only unknown tasks in a queue stops consuming that queue for
a growing pause. A known task behind them is moved to the front. Celeriac's own queues can't be
paused for that: there a message is set aside for a while, and beyond a limit it is dropped with a
log line.
"""

import time
from collections.abc import Mapping
from typing import Any

import structlog

from celeriac.adapters.celery_queue import OWN_QUEUES
from celeriac.adapters.dropped import dropped_messages
from celeriac.adapters.queue_search import bring_known_forward
from celeriac.kit.backoff import grown
from celeriac.logs.redact import clip

logger = structlog.get_logger(__name__)

_FIRST_PAUSE = 0.1
_LONGEST_PAUSE = 5.0
_LONGEST_MIXED_PAUSE = 1.0
"""For a queue that also has known tasks, which must not wait for long."""

_PART_OF_A_ROUND = 0.1
"""How much a search counts that has not seen the whole queue; the next one continues it."""

_MIXED_SECONDS = 60.0
_SET_ASIDE_SECONDS = 30.0
_MOST_SET_ASIDE = 100
_MOST_NAMES = 50
NAMED_SECONDS = 300.0
"""How long a name is reported. A message that no worker takes returns more often than that."""


class UnknownTasks:
    """Handles unknown tasks of one consumer. Used only by the thread of its event loop."""

    def __init__(self, consumer: Any) -> None:
        self._consumer = consumer
        self._rounds: dict[str, float] = {}
        self._known_at: dict[str, float] = {}
        self._set_aside = 0
        self._seen_at: dict[str, float] = {}
        self._paused: set[str] = set()

    @property
    def names(self) -> Mapping[str, float]:
        """Names of unknown tasks of the last five minutes, with the time of the last message.

        The latest is the last; the times are of the monotonic clock.
        """
        horizon = time.monotonic() - NAMED_SECONDS
        self._seen_at = {name: at for name, at in self._seen_at.items() if at > horizon}
        return dict(self._seen_at)

    @property
    def paused(self) -> frozenset[str]:
        """Queues that are not consumed at the moment."""
        return frozenset(self._paused)

    def known(self, queue: str) -> None:
        """Record that a known task came from `queue`."""
        self._known_at[queue] = time.monotonic()
        self._rounds.pop(queue, None)

    def give_back(self, message: Any, name: str, queue: str) -> None:
        """Return a message to its queue, now or later."""
        if name not in self.names:
            logger.warning(
                "task.unknown",
                task_name=clip(name),
                queue=clip(queue),
                hint="start a worker with --include MODULE, the module that defines it",
            )
        self._seen_at.pop(name, None)
        self._seen_at[name] = time.monotonic()
        if len(self._seen_at) > _MOST_NAMES:
            del self._seen_at[next(iter(self._seen_at))]
        if queue in OWN_QUEUES:
            self._hold(message, name, queue)
        else:
            self._step_back(message, queue)

    def connection_lost(self) -> None:
        """Forget the messages set aside: the broker delivers them again."""
        self._set_aside = 0
        self._paused.clear()

    def _step_back(self, message: Any, queue: str) -> None:
        """Requeue the message; from the second time on pause the queue if no known task follows.

        The first time this worker asks for messages after the others, so that another one gets it.
        """
        self._requeue(message)
        rounds = self._rounds.get(queue)
        if rounds is None:
            self._rounds[queue] = 0.0
        elif queue not in self._paused:
            consumer = self._consumer.task_consumer
            strategies = self._consumer.strategies
            known, all_seen = bring_known_forward(consumer.channel, queue, strategies)
            if not known:
                self._rounds[queue] = rounds + (1 if all_seen else _PART_OF_A_ROUND)
                self._pause(queue, consumer)

    def _pause(self, queue: str, consumer: Any) -> None:
        """Stop consuming `queue`, the longer the more rounds had only unknown tasks."""
        mixed = time.monotonic() - self._known_at.get(queue, -_MIXED_SECONDS) < _MIXED_SECONDS
        longest = _LONGEST_MIXED_PAUSE if mixed else _LONGEST_PAUSE
        consumer.cancel_by_queue(queue)
        self._paused.add(queue)
        pause = grown(_FIRST_PAUSE, max(self._rounds[queue] - 1, 0.0), longest)
        self._later(pause, lambda: self._resume(queue, consumer))

    def _resume(self, queue: str, consumer: Any) -> None:
        """Consume `queue` again, unless the connection has changed or nobody wants it any more."""
        self._paused.discard(queue)
        if consumer is self._consumer.task_consumer and queue in self._consumer.open_queues:
            consumer.add_queue(self._consumer.app.amqp.queues.consume_from[queue])
            consumer.consume()

    def _hold(self, message: Any, name: str, queue: str) -> None:
        if not message.delivery_info.get("redelivered"):
            self._requeue(message)
        elif self._set_aside >= _MOST_SET_ASIDE:
            reason = f"{_MOST_SET_ASIDE} messages of unknown tasks are set aside already"
            dropped_messages.record(reason, b"", queue=queue, task=name)
            message.ack_log_error(logger, self._consumer.connection_errors)
        else:
            qos = self._consumer.qos
            self._set_aside += 1
            qos.increment_eventually()  # it must not take the slot of a message that can be run
            self._later(_SET_ASIDE_SECONDS, lambda: self._put_back(message, qos))

    def _put_back(self, message: Any, qos: Any) -> None:
        if qos is self._consumer.qos:  # else the connection was lost
            self._set_aside -= 1
            qos.decrement_eventually()
            self._requeue(message)

    def _requeue(self, message: Any) -> None:
        message.reject_log_error(logger, self._consumer.connection_errors, requeue=True)

    def _later(self, seconds: float, work: Any) -> None:
        consumer = self._consumer
        # a timer may have a thread of its own, and channels must not be shared between threads
        consumer.timer.call_after(seconds, consumer.call_soon, (work,))
