"""Advances runs in threads of a worker process, so that no slot waits for it."""

import threading
from collections.abc import Callable, Sequence
from uuid import UUID

import structlog

from celeriac.kit.threads import Threads

logger = structlog.get_logger(__name__)

_THREADS = 2


class AdvanceQueue:
    """Advances runs of which items have ended, each once however many items ended meanwhile.

    What is not done here, because the process ends, is done by the keeper.
    """

    def __init__(self, after: Callable[[Sequence[UUID]], None]) -> None:
        """Advance runs by `after`, which raises nothing."""
        self._after = after
        self._threads = Threads("workflows", _THREADS)
        self._waiting: set[UUID] = set()
        self._lock = threading.Lock()

    def add(self, run_ids: Sequence[UUID]) -> None:
        """Advance runs soon; returns at once."""
        for run_id in run_ids:
            with self._lock:
                if run_id in self._waiting:
                    continue
                self._waiting.add(run_id)
            try:
                self._threads.submit(self._advance, run_id)
            except RuntimeError as error:  # no thread is left, or the process ends
                self._begun(run_id)
                logger.warning("workflow.left_to_keeper", run_id=run_id, error=str(error))

    def close(self) -> None:
        """Begin no more."""
        self._threads.shutdown(wait=False)

    def _advance(self, run_id: UUID) -> None:
        self._begun(run_id)  # what ends from now on is added again
        self._after([run_id])

    def _begun(self, run_id: UUID) -> None:
        with self._lock:
            self._waiting.discard(run_id)
