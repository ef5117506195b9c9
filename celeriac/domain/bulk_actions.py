"""What bulk jobs do, their states and transitions; without heavy imports, for the command line."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

from celeriac.domain.executions.states import LIVE, TERMINAL, Status


class BulkAction(StrEnum):
    """What a bulk job does with each execution."""

    CANCEL = "cancel"
    RETRY = "retry"
    REPLAY = "replay"
    """A retry whose model requests are answered from the execution's cassette."""
    PRIORITISE = "prioritise"
    MOVE = "move"
    LABEL = "label"
    DELETE = "delete"


NOT_FOUND = "not_found"
ENDED = "ended"
NOT_ENDED = "not_ended"
UNCHANGED = "unchanged"
IN_USE = "in_use"
NOT_RECORDED = "not_recorded"
"""The codes of reasons why an execution is skipped, besides those of errors."""


@dataclass(frozen=True, slots=True)
class Reason:
    """Why an execution was not changed: a stable code, and a text for people."""

    code: str
    message: str


@dataclass(frozen=True, slots=True)
class ActionRule:
    """To which executions an action applies."""

    takes: frozenset[Status]
    """The statuses of executions that it can change."""
    selects: frozenset[Status]
    """The statuses that a filter without any selects."""
    done: str
    """What happens to an execution, after `it can`."""
    left: Reason
    """Why an execution with such a status is left as it is."""
    argument: str | None = None
    """The field of a request that the action needs."""


ACTIONS: Mapping[BulkAction, ActionRule] = MappingProxyType(
    {
        BulkAction.CANCEL: ActionRule(
            LIVE,
            LIVE,
            "be cancelled",
            Reason(UNCHANGED, "Its cancellation was requested before."),
        ),
        BulkAction.RETRY: ActionRule(
            TERMINAL,
            frozenset({Status.FAILED}),
            "be retried",
            Reason(UNCHANGED, "It was not retried."),
        ),
        BulkAction.REPLAY: ActionRule(
            TERMINAL,
            frozenset({Status.COMPLETED}),
            "be replayed",
            Reason(NOT_RECORDED, "It has no cassette: it was not recorded, or that was deleted."),
        ),
        BulkAction.PRIORITISE: ActionRule(
            LIVE,
            LIVE,
            "get another priority",
            Reason(UNCHANGED, "It has this priority."),
            "priority",
        ),
        BulkAction.MOVE: ActionRule(
            LIVE, LIVE, "be moved", Reason(UNCHANGED, "It is in this queue."), "to_queue"
        ),
        BulkAction.LABEL: ActionRule(
            frozenset(Status),
            frozenset(Status),
            "be labelled",
            Reason(UNCHANGED, "It has these labels."),
            "labels",
        ),
        BulkAction.DELETE: ActionRule(
            TERMINAL,
            TERMINAL,
            "be deleted",
            Reason(
                IN_USE,
                "Its parent, its run of a workflow, or an execution that it has started has not "
                "ended, or its end is still to be delivered to a webhook.",
            ),
        ),
    }
)
"""All actions. A new one has an entry here and one in `services.bulk_jobs.actions`."""


class BulkStatus(StrEnum):
    """The status of a bulk job."""

    PREVIEW = "preview"
    """Its executions are selected; nothing is changed until somebody starts it."""
    PENDING = "pending"
    """It was started; the keeper has not begun yet."""
    RUNNING = "running"
    COMPLETED = "completed"
    """Each execution has an outcome; some may be skipped or failed."""
    STOPPED = "stopped"
    """Somebody has stopped it; what was done stays."""
    FAILED = "failed"
    """It could not go on; what was done stays."""

    @property
    def terminal(self) -> bool:
        """Whether the job has ended."""
        return self in ENDED_JOBS


class BulkTransition(StrEnum):
    """A named reason to change the state of a bulk job."""

    START = "start"
    BEGIN = "begin"
    COMPLETE = "complete"
    STOP = "stop"
    FAIL = "fail"


ENDED_JOBS = frozenset({BulkStatus.COMPLETED, BulkStatus.STOPPED, BulkStatus.FAILED})
ACTIVE_JOBS = frozenset({BulkStatus.PENDING, BulkStatus.RUNNING})

BULK_TRANSITIONS: Mapping[BulkTransition, tuple[frozenset[BulkStatus], BulkStatus]] = (
    MappingProxyType(
        {
            # name: (allowed sources, target)
            BulkTransition.START: (frozenset({BulkStatus.PREVIEW}), BulkStatus.PENDING),
            BulkTransition.BEGIN: (frozenset({BulkStatus.PENDING}), BulkStatus.RUNNING),
            BulkTransition.COMPLETE: (frozenset({BulkStatus.RUNNING}), BulkStatus.COMPLETED),
            BulkTransition.STOP: (ACTIVE_JOBS, BulkStatus.STOPPED),
            BulkTransition.FAIL: (ACTIVE_JOBS, BulkStatus.FAILED),
        }
    )
)
"""Every legal change of state: name → (states it may start from, state it ends in)."""


class BulkOutcome(StrEnum):
    """What became of an execution of a bulk job."""

    DONE = "done"
    SKIPPED = "skipped"
    """The action does not apply to it; the reason says why."""
    FAILED = "failed"
    """The action failed, by an error of Celeriac."""


def reason_of(action: BulkAction, status: Status | None) -> Reason:
    """Return why an execution with this status (None: it was deleted) was not changed."""
    rule = ACTIONS[action]
    if status is None:
        return Reason(NOT_FOUND, "It was deleted.")
    if status in rule.takes:
        return rule.left
    if status.terminal:
        message = f"The execution is {status}; only one that has not ended can {rule.done}."
        return Reason(ENDED, message)
    return Reason(NOT_ENDED, f"The execution is {status}; only one that has ended can {rule.done}.")
