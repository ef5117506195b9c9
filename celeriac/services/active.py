"""The attempts that this process is running, shared between its threads."""

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from uuid import UUID

from celeriac.domain.execution import Lease
from celeriac.services.attempt import Attempt, StopReason


class ActiveAttempts:
    """A register by execution; the heartbeat, the notebook and the control channel read it."""

    def __init__(self) -> None:
        """Start empty."""
        self._lock = threading.Lock()
        self._attempts: dict[UUID, Attempt] = {}

    @contextmanager
    def running(self, attempt: Attempt) -> Iterator[None]:
        """List `attempt` while the block runs.

        Should an earlier attempt of the execution still run here, it is one whose lease was lost
        without our knowing: it is told so, and makes way.
        """
        key = attempt.lease.execution_id
        with self._lock:
            earlier = self._attempts.get(key)
            self._attempts[key] = attempt
        if earlier is not None:
            earlier.stop(StopReason.LEASE_LOST)
        try:
            yield
        finally:
            with self._lock:
                if self._attempts.get(key) is attempt:
                    del self._attempts[key]

    def all(self) -> list[Attempt]:
        """Return the attempts that are running now."""
        with self._lock:
            return list(self._attempts.values())

    def among(self, execution_ids: Iterable[UUID]) -> list[UUID]:
        """Return those of the executions that run here."""
        with self._lock:
            return [key for key in execution_ids if key in self._attempts]

    def stand_still(self, lease: Lease) -> Callable[[], None]:
        """Stop the time of the attempt with `lease`; return what lets it go on."""
        with self._lock:
            attempt = self._attempts.get(lease.execution_id)
        if attempt is None or attempt.lease != lease:
            return lambda: None
        return attempt.time_limits.stand_still()

    def stop(self, execution_ids: Iterable[UUID], reason: StopReason) -> None:
        """Stop those of the executions that run here."""
        with self._lock:
            found = [self._attempts[key] for key in execution_ids if key in self._attempts]
        for attempt in found:
            attempt.stop(reason)

    def stop_all(self, reason: StopReason) -> int:
        """Stop everything that runs here; return how many attempts were not told before."""
        return sum(attempt.stop(reason) for attempt in self.all())

    def __len__(self) -> int:
        """How many attempts run now."""
        return len(self._attempts)
