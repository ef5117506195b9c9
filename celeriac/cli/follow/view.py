"""What is known of one execution while it is followed: a pure fold over its events."""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING
from uuid import UUID

from celeriac.domain.events import EventType
from celeriac.domain.states import Status

if TYPE_CHECKING:
    from celeriac.client import Delta
    from celeriac.wire import Event, Execution

KEPT_EVENTS = 200
_LONGEST_TEXT = 20_000

_STATUS_AFTER = {
    EventType.CREATED: Status.PENDING,
    EventType.QUEUED: Status.QUEUED,
    EventType.UNQUEUED: Status.PENDING,
    EventType.STARTED: Status.RUNNING,
    EventType.RETRY_SCHEDULED: Status.PENDING,
    EventType.HANDED_BACK: Status.PENDING,
    EventType.WAITING: Status.WAITING,
    EventType.RESUMED: Status.PENDING,
    EventType.COMPLETED: Status.COMPLETED,
    EventType.FAILED: Status.FAILED,
    EventType.CANCELLED: Status.CANCELLED,
}


@dataclass(slots=True)
class View:
    """One execution as a follower knows it. Times are aware, tokens are counts."""

    execution_id: UUID
    task_name: str
    status: Status = Status.PENDING
    attempt: int = 0
    worker: str | None = None
    created_at: datetime | None = None
    started_at: datetime | None = None
    ended_at: datetime | None = None
    done: float | None = None
    total: float | None = None
    note: str = ""
    input_tokens: int = 0
    output_tokens: int = 0
    text: str = ""
    """Live output of the attempt that runs now; its beginning is cut off when it is very long."""
    waits_for: str = ""
    """Why it waits without a worker, in words."""
    questions: dict[str, str] = field(default_factory=dict)
    """Open questions to people: titles by ids."""
    events: "deque[Event]" = field(default_factory=lambda: deque(maxlen=KEPT_EVENTS))

    @classmethod
    def of(cls, execution: "Execution") -> "View":
        """Return the view before its first event: who it is, nothing of how it stands."""
        return cls(execution.id, execution.task_name)

    @property
    def ended(self) -> bool:
        """Whether nothing can follow."""
        return self.status.terminal

    def apply(self, event: "Event") -> None:
        """Learn from the next event."""
        self.events.append(event)
        self.status = _STATUS_AFTER.get(event.type, self.status)
        self.attempt = max(self.attempt, event.attempt)
        self._wait(event)
        if event.type is EventType.CREATED:
            self.created_at = event.at
        elif event.type is EventType.STARTED:
            self._start(event)
        elif event.type is EventType.PROGRESS:
            self._progress(event.data)
        elif event.type is EventType.MODEL_CALL:
            self.input_tokens += event.data.get("input_tokens", 0)
            self.output_tokens += event.data.get("output_tokens", 0)
        if self.ended:
            self.ended_at = event.at

    def hear(self, delta: "Delta") -> str:
        """Learn a piece of live output; return the text of it."""
        piece = str(delta.data.get("text") or "")
        self.text = (self.text + piece)[-_LONGEST_TEXT:]
        return piece

    def _wait(self, event: "Event") -> None:
        if event.type is EventType.WAITING:
            self.waits_for = str(event.data.get("note") or event.data.get("reason") or "")
        elif event.type is EventType.APPROVAL_ASKED:
            self.questions[str(event.data.get("approval_id"))] = str(event.data.get("title") or "")
        elif event.type is EventType.APPROVAL_ANSWERED:
            self.questions.pop(str(event.data.get("approval_id")), None)
        if self.status is not Status.WAITING:
            self.waits_for = ""
        if self.ended:
            self.questions.clear()

    def _start(self, event: "Event") -> None:
        self.worker = event.data.get("worker")
        self.started_at = self.started_at or event.at
        self.done = self.total = None
        self.note = self.text = ""

    def _progress(self, data: Mapping[str, object]) -> None:
        done, total = data.get("done"), data.get("total")
        self.done = done if isinstance(done, int | float) else None
        self.total = total if isinstance(total, int | float) else None
        self.note = str(data.get("note") or "")
