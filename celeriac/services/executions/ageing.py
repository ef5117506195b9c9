"""Raises the priority of executions that have waited long."""

import itertools
from collections.abc import Iterator

import structlog

from celeriac.db.engine import Database
from celeriac.db.executions import ageing as rows
from celeriac.db.executions import limits
from celeriac.db.executions.ageing import Owner
from celeriac.db.executions.create import place_of
from celeriac.domain.executions.ageing import RAISED, raised_after
from celeriac.domain.tasks import Priority
from celeriac.kit.json_types import dumps
from celeriac.services.ports import LiveEvents

logger = structlog.get_logger(__name__)

_QUEUES = 1_000
"""Queues that are looked at; the first by name if there are more."""

_OWNERS = 200
_EACH = 50
"""Executions of one owner that are raised in one step: 10,000 of all."""


class RaiseAged:
    """Raises what has waited long, by steps of one; the keeper calls it all the time."""

    def __init__(self, database: Database, live: LiveEvents, *, seconds: float) -> None:
        """Raise what has been due for `seconds` by one, and for twice that by two."""
        self._database = database
        self._live = live
        self._seconds = seconds
        self._after: dict[tuple[str, Priority], Owner] = {}
        """Where the next step begins in a queue, of those that a step has not finished."""

    def __call__(self) -> int:
        """Look at up to 200 owners of each queue and priority; return how many were raised.

        The next call continues with the owners behind them. Raises DatabaseUnavailableError.
        """
        with self._database.autocommit() as connection:
            queues = rows.queues(connection, limit=_QUEUES)
        self._after = {key: owner for key, owner in self._after.items() if key[0] in queues}
        return sum(self._step(queue, priority) for queue, priority in _places(queues))

    def _step(self, queue: str, priority: Priority) -> int:
        seconds = raised_after(priority, self._seconds)
        key = queue, priority
        with self._database.autocommit() as connection:
            found = rows.aged(
                connection,
                queue,
                priority,
                seconds=seconds,
                after=self._after.get(key, Owner()),
                owners=_OWNERS,
                each=_EACH,
            )
        if found.last is None:
            self._after.pop(key, None)
        else:
            self._after[key] = found.last
        if not found.ids:
            return 0
        after = RAISED[priority]
        data = dumps({"from": priority.label, "to": after.label, "seconds": seconds})
        with self._database.transaction() as connection:
            raised = rows.raise_priority(connection, found.ids, priority=priority, data=data)
            if raised:
                limits.set_place(connection, raised, place_of(after))
        self._live.changed(raised)
        for execution_id in raised:
            logger.info(
                "execution.raised",
                execution_id=execution_id,
                before=priority.label,
                after=after.label,
            )
        return len(raised)


def _places(queues: list[str]) -> Iterator[tuple[str, Priority]]:
    """Return the queues with the priorities that are raised, the higher first.

    So nothing is raised twice in one call.
    """
    return itertools.product(queues, sorted(RAISED, reverse=True))
