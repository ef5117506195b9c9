"""The states of an execution and every transition between them, as data.

`docs/states.md` draws this table and a test holds the drawing against it. The only writer of
`executions.status` is `celeriac.db.transitions`, which takes its guards from here.
"""

from enum import StrEnum
from types import MappingProxyType


class Status(StrEnum):
    """Where an execution stands (DESIGN section 4)."""

    PENDING = "pending"
    QUEUED = "queued"
    RUNNING = "running"
    WAITING = "waiting"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def terminal(self) -> bool:
        """Whether nothing can follow."""
        return self in TERMINAL


class Transition(StrEnum):
    """A named reason to change state; the name is written into the event log."""

    QUEUE = "queue"
    UNQUEUE = "unqueue"
    CLAIM = "claim"
    COMPLETE = "complete"
    FAIL = "fail"
    RETRY = "retry"
    HAND_BACK = "hand_back"
    LOSE = "lose"
    GIVE_UP = "give_up"
    PARK = "park"
    RESUME = "resume"
    EXPIRE = "expire"
    CANCEL = "cancel"
    STOP = "stop"


TERMINAL = frozenset({Status.COMPLETED, Status.FAILED, Status.CANCELLED})
LIVE = frozenset(Status) - TERMINAL

TRANSITIONS = MappingProxyType(
    {
        # name: (allowed sources, target)
        Transition.QUEUE: (frozenset({Status.PENDING}), Status.QUEUED),
        Transition.UNQUEUE: (frozenset({Status.QUEUED}), Status.PENDING),
        Transition.CLAIM: (frozenset({Status.QUEUED}), Status.RUNNING),
        Transition.COMPLETE: (frozenset({Status.RUNNING}), Status.COMPLETED),
        Transition.FAIL: (frozenset({Status.RUNNING}), Status.FAILED),
        Transition.RETRY: (frozenset({Status.RUNNING}), Status.PENDING),
        Transition.HAND_BACK: (frozenset({Status.RUNNING}), Status.PENDING),
        Transition.LOSE: (frozenset({Status.RUNNING}), Status.PENDING),
        Transition.GIVE_UP: (frozenset({Status.RUNNING}), Status.FAILED),
        Transition.PARK: (frozenset({Status.RUNNING}), Status.WAITING),
        Transition.RESUME: (frozenset({Status.WAITING}), Status.PENDING),
        Transition.EXPIRE: (frozenset({Status.WAITING}), Status.FAILED),
        Transition.CANCEL: (
            frozenset({Status.PENDING, Status.QUEUED, Status.WAITING}),
            Status.CANCELLED,
        ),
        Transition.STOP: (frozenset({Status.RUNNING}), Status.CANCELLED),
    }
)
"""Every legal change of state: name → (states it may start from, state it ends in).

CANCEL ends what no worker holds; STOP is the worker's own word that a running one was cancelled.
"""


def allowed(source: Status, target: Status) -> bool:
    """Whether any transition leads from `source` to `target`."""
    return any(source in sources and target is end for sources, end in TRANSITIONS.values())


class WaitingFor(StrEnum):
    """What a parked execution waits for."""

    APPROVAL = "approval"
    BUDGET = "budget"
    PROVIDER_LIMIT = "provider_limit"
