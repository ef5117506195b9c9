"""States of executions, their transitions as data, and their counterparts in Celery."""

from enum import StrEnum
from types import MappingProxyType


class Status(StrEnum):
    """The status of an execution (docs/states.md)."""

    PENDING = "pending"
    QUEUED = "queued"
    RUNNING = "running"
    WAITING = "waiting"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def terminal(self) -> bool:
        """Whether the execution has ended."""
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
    LAPSE = "lapse"
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
        Transition.LAPSE: (frozenset({Status.PENDING, Status.QUEUED}), Status.CANCELLED),
        Transition.STOP: (frozenset({Status.RUNNING}), Status.CANCELLED),
    }
)
"""Every legal change of state: name → (states it may start from, state it ends in).

CANCEL ends an execution that no worker holds; STOP is written by the worker of a running one. LAPSE
ends one whose first attempt has not begun in time.
"""


EXPIRED = "expired"
"""The error code of an execution that was cancelled because it had not begun in time."""


class Held(StrEnum):
    """Why a pending execution may not run yet."""

    TIME = "time"
    """It isn't due: it was submitted for later, or follows a failed attempt after a delay."""
    LIMIT = "limit"
    """Another has the slot of one of its keys that it needs."""
    PAUSED = "paused"
    PARALLEL = "parallel"
    """As many of its siblings run as their parent, or their workflow's step, allows at once."""


class WaitingFor(StrEnum):
    """What a parked execution waits for."""

    APPROVAL = "approval"
    BUDGET = "budget"
    PROVIDER_LIMIT = "provider_limit"
    CHILDREN = "children"
    """The executions that it has started."""
    CHILD = "child"
    """The next of them to end."""
    SLEEP = "sleep"


class CeleryState(StrEnum):
    """The states that Celery reports (REQUIREMENTS B4)."""

    PENDING = "PENDING"
    RECEIVED = "RECEIVED"
    STARTED = "STARTED"
    SUCCESS = "SUCCESS"
    FAILURE = "FAILURE"
    RETRY = "RETRY"
    REVOKED = "REVOKED"

    @classmethod
    def read(cls, name: str) -> "CeleryState":
        """Return Celery's state `name`; a custom state counts as STARTED."""
        return cls(name) if name in cls.__members__ else cls.STARTED


class SimpleStatus(StrEnum):
    """A state in plain words (REQUIREMENTS D4)."""

    PENDING = "pending"
    IN_PROGRESS = "in_progress"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


SIMPLE = MappingProxyType(
    {
        CeleryState.PENDING: SimpleStatus.PENDING,
        CeleryState.RECEIVED: SimpleStatus.PENDING,
        CeleryState.STARTED: SimpleStatus.IN_PROGRESS,
        CeleryState.RETRY: SimpleStatus.IN_PROGRESS,
        CeleryState.SUCCESS: SimpleStatus.COMPLETED,
        CeleryState.FAILURE: SimpleStatus.FAILED,
        CeleryState.REVOKED: SimpleStatus.CANCELLED,
    }
)

_OF_STATUS = MappingProxyType(
    {
        Status.PENDING: CeleryState.PENDING,
        Status.QUEUED: CeleryState.PENDING,
        Status.RUNNING: CeleryState.STARTED,
        Status.WAITING: CeleryState.STARTED,
        Status.COMPLETED: CeleryState.SUCCESS,
        Status.FAILED: CeleryState.FAILURE,
        Status.CANCELLED: CeleryState.REVOKED,
    }
)


def celery_state(status: Status, *, attempt: int) -> CeleryState:
    """Return Celery's state for an execution's status after `attempt` attempts.

    An execution that is queued again after an attempt is in RETRY, however the attempt ended.
    """
    if attempt and status in {Status.PENDING, Status.QUEUED}:
        return CeleryState.RETRY
    return _OF_STATUS[status]
