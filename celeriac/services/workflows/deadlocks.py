"""Ends runs that wait for each other's slots for ever."""

from uuid import UUID

import structlog

from celeriac.db.engine import Connection, Database
from celeriac.db.workflows import deadlocks as rows
from celeriac.db.workflows import limits as limit_rows
from celeriac.db.workflows.limits import Line
from celeriac.domain.limits import said
from celeriac.domain.workflows.deadlocks import Deadlock, Key, Tree, find_deadlock
from celeriac.services.workflows.limits import BY_LIMIT, CancelRun

logger = structlog.get_logger(__name__)

_MOST_TREES = 500
"""Runs that one search looks at. A larger deadlock is not found."""


class Deadlocks:
    """Looks for them, some keys at a time. Only the keeper uses it."""

    def __init__(self, database: Database, cancel: CancelRun) -> None:
        self._database = database
        self._cancel = cancel
        self._after: Line | None = None

    def end_one(self, limit: int) -> list[UUID]:
        """End a run that others wait for, and that waits for them; return it, to be advanced.

        Looks at up to `limit` keys for which runs wait, those behind the keys of the last call, and
        at what they lead to.
        """
        with self._database.transaction() as connection:
            rows.read_one_snapshot(connection)
            lines = limit_rows.lines(connection, after=self._after, limit=limit)
            found = _find(connection, {(line.workspace_id, line.key) for line in lines})
        if found is None:
            self._after = lines[-1] if len(lines) == limit else None
            return []
        ending = found.ending
        why = (ending.why.value, said(ending, found.key, "run"))
        if not self._cancel(ending.id, by=BY_LIMIT, why=why, only_pending=False):
            return []
        logger.warning(
            "workflow.deadlock_ended",
            run_id=ending.id,
            key=found.key,
            other_run_id=ending.because_of,
        )
        return [ending.id]


def _find(connection: Connection, keys: set[Key]) -> Deadlock | None:
    """Return a deadlock of the runs that have slots of `keys`, or None."""
    holders: dict[Key, list[UUID]] = {}
    trees: dict[UUID, Tree] = {}
    looked_at: set[Key] = set()
    while keys and len(trees) < _MOST_TREES:
        looked_at |= keys
        kept = rows.holders(connection, keys)
        holders |= kept
        new = list({run_id for of_key in kept.values() for run_id in of_key} - trees.keys())
        if new:
            trees |= rows.trees(connection, new)
        stopped = [trees[run_id] for run_id in new if not trees[run_id].goes_on]
        keys = {key for tree in stopped for wanted in tree.waiting.values() for key in wanted}
        keys -= looked_at
    return find_deadlock(holders, trees)
