"""Chores that take long, on a thread of their own."""

import threading
from collections.abc import Callable

import structlog

from celeriac.domain.errors import DatabaseUnavailableError

logger = structlog.get_logger(__name__)


class InBackground:
    """Does slow work beside its caller, one turn at a time."""

    def __init__(self, work: Callable[[], int], *, name: str) -> None:
        """Do `work` in a thread called `name`."""
        self._work = work
        self._name = name
        self._thread: threading.Thread | None = None
        self._done = 0

    def __call__(self) -> int:
        """Begin a turn unless one is under way; return how much the turn before it did."""
        if self._thread is not None and self._thread.is_alive():
            return 0
        done, self._done = self._done, 0
        self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
        self._thread.start()
        return done

    def _run(self) -> None:
        try:
            self._done = self._work()
        except DatabaseUnavailableError as error:
            logger.warning("keeper.database_unavailable", chore=self._name, error=error.message)
        except Exception:
            logger.exception("keeper.failed", chore=self._name)
