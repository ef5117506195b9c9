"""Reporting: a worker writes the reports of what it has run, when nobody waits for it any more."""

import queue
import threading
from collections.abc import Callable, Mapping
from uuid import UUID

import structlog

from celeriac.domain.errors import CeleriacError
from celeriac.logs import bound

logger = structlog.get_logger(__name__)

_MOST_WAITING = 1_000
_END_SECONDS = 5.0


class Reporting:
    """Makes reports on a thread of its own, which starts with the first of them.

    None of them is needed now: what was not made, because too many waited or the process ended, is
    made when somebody asks for it.
    """

    def __init__(self, prepare: Callable[[UUID], None]) -> None:
        """Make reports with `prepare`."""
        self._prepare = prepare
        self._waiting: queue.Queue[tuple[UUID, Mapping[str, str]] | None] = queue.Queue(
            _MOST_WAITING
        )
        self._thread: threading.Thread | None = None
        self._starting = threading.Lock()

    def later(self, execution_id: UUID, correlation: Mapping[str, str]) -> None:
        """Have the report of an execution that has ended made; never waits."""
        try:
            self._waiting.put_nowait((execution_id, correlation))
        except queue.Full:
            logger.info("report.left_for_later")
            return
        with self._starting:
            if self._thread is None:
                self._start()

    def _start(self) -> None:
        thread = threading.Thread(target=self._run, name="reports", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:
            # the system has no thread left; the next report tries again
            logger.warning("report.left_for_later", error=str(error))
        else:
            self._thread = thread

    def close(self) -> None:
        """Finish what is begun and make no more."""
        if self._thread is None:
            return
        while True:
            try:
                self._waiting.get_nowait()
            except queue.Empty:
                break
        self._waiting.put_nowait(None)
        self._thread.join(_END_SECONDS)

    def _run(self) -> None:
        while (item := self._waiting.get()) is not None:
            execution_id, correlation = item
            with bound(correlation):
                try:
                    self._prepare(execution_id)
                except CeleriacError as error:
                    logger.warning("report.not_made", error=error.message)
                except Exception:
                    # one that can't be written must not cost the others
                    logger.exception("report.not_made")
