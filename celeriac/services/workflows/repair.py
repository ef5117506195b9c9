"""Finds live runs that can't go on, and lets them go on: wrong counters, and nothing due.

Both would be bugs, or the work of somebody who has changed rows by hand.
"""

from collections.abc import Callable
from uuid import UUID

import structlog

from celeriac.db.engine import Database
from celeriac.db.workflows import repair, runs, steps

logger = structlog.get_logger(__name__)

_FIRST = UUID(int=0)
_OLDER_THAN_SECONDS = 120.0


class Repair:
    """Checks live runs in turns, some at a time. Belongs to one thread."""

    def __init__(self, database: Database, advance: Callable[[UUID], object]) -> None:
        self._database = database
        self._advance = advance
        self._after = _FIRST

    def __call__(self, limit: int, *, older_than: float = _OLDER_THAN_SECONDS) -> int:
        """Check up to `limit` live runs, those after the last call's; return how many needed it."""
        with self._database.autocommit() as connection:
            found = repair.live_runs(
                connection, after=self._after, older_than=older_than, limit=limit
            )
            checked = [(run_id, *repair.check(connection, run_id)) for run_id in found]
        self._after = found[-1] if len(found) == limit else _FIRST
        faulty = [run_id for run_id, wrong, stuck in checked if wrong or stuck]
        return sum(map(self._repair, faulty))

    def _repair(self, run_id: UUID) -> bool:
        with self._database.transaction() as connection:
            run = runs.lock(connection, run_id)
            if run is None or run.status.terminal:
                return False
            named = repair.correct(connection, run_id)
            stuck = repair.check(connection, run_id)[1]
            if stuck:
                steps.wake(connection, run_id)
        if named:
            logger.error("workflow.counters_repaired", run_id=run_id, steps=named)
        if stuck:
            logger.error("workflow.woken", run_id=run_id)
        self._advance(run_id)
        return bool(named) or stuck
