"""Events: the entries of an execution's append-only log."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from uuid import UUID

from celeriac.kit.json_types import JsonObject


class EventType(StrEnum):
    """The kinds of events. Names are part of the API; documented in docs/events.md."""

    CREATED = "created"
    QUEUED = "queued"
    UNQUEUED = "unqueued"
    RAISED = "raised"
    STARTED = "started"
    COMPLETED = "completed"
    FAILED = "failed"
    RETRY_SCHEDULED = "retry_scheduled"
    HANDED_BACK = "handed_back"
    WORKER_LOST = "worker_lost"
    WAITING = "waiting"
    RESUMED = "resumed"
    APPROVAL_ASKED = "approval_asked"
    APPROVAL_ANSWERED = "approval_answered"
    STEP_COMPLETED = "step_completed"
    STEP_FAILED = "step_failed"
    CANCEL_REQUESTED = "cancel_requested"
    CANCELLED = "cancelled"
    PROGRESS = "progress"
    LABELLED = "labelled"
    """The agent has changed labels of its execution."""
    MESSAGE = "message"
    TOOL_CALL = "tool_call"
    TOOL_RESULT = "tool_result"
    TOOL_DENIED = "tool_denied"
    """A rule or a person does not allow a call of a tool."""
    NETWORK_REFUSED = "network_refused"
    """A confined process tried to reach what its agent may not."""
    NETWORK_USED = "network_used"
    """What the confined processes of an attempt reached, and what was refused to them."""
    MODEL_CALL = "model_call"
    SECRET_USED = "secret_used"  # noqa: S105 - a type of events
    """The attempt was given a secret."""
    CHECKOUT = "checkout"
    """The agent's working directory is a checkout of a repository."""
    VERIFY_FAILED = "verify_failed"
    """A check of the agent's work in the checkout failed."""
    CHANGE = "change"
    """What the agent has changed in the checkout is stored."""
    PUSHED = "pushed"
    """The change is on a branch of the repository's server."""
    PULL_REQUEST = "pull_request"
    """There is a pull request for the change."""
    LOG = "log"
    CUSTOM = "custom"
    STEP = "step"
    """Of the run of a workflow: a step has another status."""


TERMINAL_EVENTS = frozenset({EventType.COMPLETED, EventType.FAILED, EventType.CANCELLED})
"""The last event of an execution is one of these."""


@dataclass(frozen=True, slots=True)
class NewEvent:
    """An event that has no number yet; the database gives the number.

    `data` is the JSON text of an object, encoded when the event is made, so that the caller gets
    the error of a value that is not JSON. `made` is that time, in `time.monotonic()` seconds of
    this process; None stands for the time of storing.
    """

    type: EventType
    data: str = "{}"
    made: float | None = None


@dataclass(frozen=True, slots=True)
class Event:
    """A stored event. `seq` counts from 1 within its execution, without gaps."""

    execution_id: UUID
    seq: int
    type: EventType
    at: datetime
    attempt: int
    data: JsonObject
