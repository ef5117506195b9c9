"""`python -m tests.support.unreliable_messages`: Celery that loses and doubles messages.

Each message is sent twice, but every tenth is lost. The messages that a process has lost or doubled
are in its log.
"""

import sys
from collections.abc import Sequence
from itertools import count

import structlog
from celery.__main__ import main

from celeriac.adapters.celery_queue import QUEUES, CeleryTaskQueue
from celeriac.domain.executions.model import QueuedMessage

WORKER = ("-Q", ",".join(QUEUES), "--without-gossip", "--without-mingle")
"""Options of a worker of a fleet."""

_LOST = 10

logger = structlog.get_logger(__name__)
_numbers = count(1)
_send = CeleryTaskQueue.send


def send(self: CeleryTaskQueue, messages: Sequence[QueuedMessage]) -> None:
    """Send messages, each twice or never."""
    sent = []
    for message in messages:
        execution_id = message.message.execution_id
        if next(_numbers) % _LOST == 0:
            logger.info("message.lost", execution_id=execution_id)
        else:
            logger.info("message.doubled", execution_id=execution_id)
            sent += [message, message]
    if sent:
        _send(self, sent)


if __name__ == "__main__":
    CeleryTaskQueue.send = send  # type: ignore[method-assign]
    sys.argv[0] = "celery"
    sys.exit(main())
