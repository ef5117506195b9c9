"""An execution's log, walked through the table of states."""

from collections.abc import Iterable

from celeriac.domain.executions.events import EventType
from celeriac.domain.executions.states import TRANSITIONS, Status, Transition

_TRANSITIONS = {
    EventType.QUEUED: Transition.QUEUE,
    EventType.UNQUEUED: Transition.UNQUEUE,
    EventType.STARTED: Transition.CLAIM,
    EventType.COMPLETED: Transition.COMPLETE,
    EventType.FAILED: Transition.FAIL,
    EventType.RETRY_SCHEDULED: Transition.RETRY,
    EventType.HANDED_BACK: Transition.HAND_BACK,
    EventType.WAITING: Transition.PARK,
    EventType.RESUMED: Transition.RESUME,
}
_AFTER_LOSS = {
    EventType.RETRY_SCHEDULED: Transition.LOSE,
    EventType.FAILED: Transition.GIVE_UP,
    EventType.CANCELLED: Transition.STOP,
}


def replay(types: Iterable[EventType]) -> Status:
    """Return the status that a log leads to; fail where a step of it is illegal."""
    steps = list(types)
    assert steps[:1] == [EventType.CREATED], f"a log begins with its creation: {steps}"
    status, lost = Status.PENDING, False
    for place, kind in enumerate(steps[1:], start=1):
        assert kind is not EventType.CREATED, f"created twice: {steps}"
        assert not lost or kind in _AFTER_LOSS, f"nothing became of a lost worker: {steps}"
        transition = _AFTER_LOSS[kind] if lost else _transition(kind, status)
        if transition is None:
            # people answer when they like
            said_any_time = kind is EventType.APPROVAL_ANSWERED and not status.terminal
            raised = kind is EventType.RAISED and status is Status.PENDING
            assert said_any_time or raised or status is Status.RUNNING, (
                f"{kind} at {place} while {status}: {steps}"
            )
        else:
            sources, target = TRANSITIONS[transition]
            assert status in sources, f"{kind} at {place} while {status}: {steps}"
            status = target
        lost = kind is EventType.WORKER_LOST
    assert not lost, f"nothing became of a lost worker: {steps}"
    return status


def _transition(kind: EventType, status: Status) -> Transition | None:
    """Return the transition that an event tells of; None for those that change no status."""
    if kind is EventType.CANCELLED:
        return Transition.STOP if status is Status.RUNNING else Transition.CANCEL
    if kind is EventType.FAILED and status is Status.WAITING:
        return Transition.EXPIRE
    return _TRANSITIONS.get(kind)
