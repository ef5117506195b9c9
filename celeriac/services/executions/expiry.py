"""Cancels executions that have not begun in time."""

import structlog

from celeriac.db.engine import Database
from celeriac.db.executions import lifecycle
from celeriac.services.executions.stop import AfterEnds
from celeriac.services.ports import LiveEvents

logger = structlog.get_logger(__name__)


class EndExpired:
    """Cancels executions that have expired; any number of keepers may do it at once."""

    def __init__(self, database: Database, live: LiveEvents, ended: AfterEnds) -> None:
        """`ended` is called for those that were cancelled."""
        self._database = database
        self._live = live
        self._ended = ended

    def __call__(self, limit: int) -> int:
        """Cancel up to `limit`, the longest expired first; return how many."""
        with self._database.transaction() as connection:
            ids = lifecycle.end_expired(connection, limit=limit)
        for execution_id in ids:
            logger.info("execution.expired", execution_id=execution_id)
        self._live.changed(ids)
        self._ended(ids)
        return len(ids)
