"""Fair turns: who of those that wait in a queue is next, so that nobody's thousands hold up others.

Each process rotates on its own; over all processes together each owner gets the same share. Who
waits is read anew some times a second, only while executions wait, and costs a look-up for each
owner, not for each execution. A claim takes what its shares name. If that is gone meanwhile, it
takes what is first in the order of the index.
"""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from celeriac.db.engine import Database
from celeriac.db.executions.waiting_owners import OwnersAfter, WaitingOwners, waiting_owners
from celeriac.domain.errors import DatabaseUnavailableError
from celeriac.domain.executions.fair_turns import Rotation, Share

_WORKSPACES = 50
_USERS = 20
"""Of a workspace that one look finds; the next look finds the others."""

_QUEUES = 1_000
"""Queues that are remembered; with more, those in which nothing waits are forgotten."""

_WAIT_SECONDS = 2.0
"""Executions that were found waiting so long ago say nothing about others."""

_LOOK_SECONDS = 0.1
_LOOK_SECONDS_ALONE = 0.25
_LOOK_SHARE = 0.05
"""Of the time that looking may take."""


@dataclass
class _Queue:
    busy_until: float = 0.0
    look_at: float = 0.0
    looking: bool = False
    after: OwnersAfter = field(default_factory=OwnersAfter)
    waiting: WaitingOwners | None = None
    rotation: Rotation = field(default_factory=Rotation)

    @property
    def several(self) -> bool:
        """Whether more than one owner waits."""
        return self.waiting is not None and sum(map(len, self.waiting.users.values())) > 1


class FairTurns:
    """Shares the places of queues among those who wait. Safe to share between threads."""

    def __init__(self, database: Database, *, now: Callable[[], float] = time.monotonic) -> None:
        self._database = database
        self._now = now
        self._lock = threading.Lock()
        self._queues: dict[str, _Queue] = {}

    def found(self, queue: str) -> None:
        """Note that executions have waited in a queue: others may do so."""
        with self._lock:
            now = self._now()
            if queue not in self._queues and len(self._queues) >= _QUEUES:
                self._queues = {name: q for name, q in self._queues.items() if now <= q.busy_until}
            self._queues.setdefault(queue, _Queue()).busy_until = now + _WAIT_SECONDS

    def waits(self, queue: str) -> bool:
        """Return whether executions were found waiting in a queue lately."""
        with self._lock:
            state = self._queues.get(queue)
            return state is not None and self._now() <= state.busy_until

    def next(self, queue: str, places: int) -> Sequence[Share]:
        """Return whose executions of a queue take the next `places`.

        Nothing if at most one owner waits, or nobody knows of any: then what is first in the order
        of the index is right. May read the database; never raises.
        """
        with self._lock:
            state = self._queues.get(queue)
            if state is None or self._now() > state.busy_until:
                return ()
            look = self._now() >= state.look_at and not state.looking
            state.looking = state.looking or look
        if look:
            self._look(queue, state)
        with self._lock:
            if state.waiting is None or not state.several:
                return ()
            dealt = state.rotation.deal(state.waiting.users, places)
            priority = state.waiting.priority
        return [Share(queue, owner, priority, count) for owner, count in dealt.items()]

    def known(self, places: Callable[[str], int]) -> Sequence[Share]:
        """Return the same for all queues in which executions have waited lately."""
        with self._lock:
            queues = [name for name, each in self._queues.items() if self._now() <= each.busy_until]
        return [share for queue in queues for share in self.next(queue, places(queue))]

    def _look(self, queue: str, state: _Queue) -> None:
        begin = self._now()
        try:
            with self._database.autocommit() as connection:
                state.waiting = waiting_owners(
                    connection, queue, state.after, workspaces=_WORKSPACES, users=_USERS
                )
            state.after = state.waiting.next
        except DatabaseUnavailableError:
            state.waiting = None  # the claim itself meets the same
        finally:
            end = self._now()
            pause = _LOOK_SECONDS if state.several else _LOOK_SECONDS_ALONE
            state.look_at = end + max(pause, (end - begin) / _LOOK_SHARE)
            state.looking = False
