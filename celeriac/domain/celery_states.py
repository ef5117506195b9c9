"""Celery's states, what they mean in plain words, and how our statuses map onto them."""

from enum import StrEnum
from types import MappingProxyType

from celeriac.domain.states import Status


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
        """Return Celery's state `name`; a state of a task's own making counts as STARTED."""
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
    """Return Celery's word for an execution's status after `attempt` attempts.

    What goes back to the queue after an attempt is RETRY, whatever ended the attempt.
    """
    if attempt and status in {Status.PENDING, Status.QUEUED}:
        return CeleryState.RETRY
    return _OF_STATUS[status]
