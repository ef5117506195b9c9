"""What a wrongly configured worker does with an execution: hand it back while others may run it."""

import threading

from celeriac.db import workers
from celeriac.db.engine import Database
from celeriac.domain.errors import WorkerMisconfiguredError
from celeriac.domain.executions.model import Claim
from celeriac.kit.text import clip

MOST_HAND_BACKS = 8


_MOST_LACKS = 20
_LONGEST_LACK = 300


class Lacks:
    """What agents need that this process does not have. Safe to share between threads."""

    def __init__(self) -> None:
        """Nothing is known to be missing."""
        self._messages: dict[str, None] = {}
        self._lock = threading.Lock()

    @property
    def names(self) -> list[str]:
        """The messages of the errors, each once, the latest last."""
        with self._lock:
            return list(self._messages)

    def add(self, message: str) -> None:
        """Remember the message of a WorkerMisconfiguredError; the oldest is dropped."""
        message = clip(message, _LONGEST_LACK)
        with self._lock:
            self._messages.pop(message, None)
            self._messages[message] = None
            if len(self._messages) > _MOST_LACKS:
                del self._messages[next(iter(self._messages))]


class OtherWorkers:
    """Knows whether another live worker could run what this one can't."""

    def __init__(self, database: Database, *, worker: str, live_seconds: float) -> None:
        """`worker` is HOSTNAME/PID; a worker silent for `live_seconds` is gone."""
        self._database = database
        self._hostname = worker.partition("/")[0]
        self._live_seconds = live_seconds

    def may_run(self, claim: Claim) -> bool:
        """Whether the execution should be handed back: a live worker has not tried it yet.

        One statement, of attempts that fail this way alone. Raises DatabaseUnavailableError.
        """
        with self._database.statement() as connection:
            return workers.has_untried_worker(
                connection,
                claim.lease.execution_id,
                queue=claim.queue,
                hostname=self._hostname,
                code=WorkerMisconfiguredError.code,
                most=MOST_HAND_BACKS,
                within_seconds=self._live_seconds,
            )
