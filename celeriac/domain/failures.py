"""Groups of failures: failed executions of a task that most likely have the same cause."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from celeriac.domain.executions.model import FailureKey
from celeriac.domain.failure_states import FailureState
from celeriac.domain.fingerprint import first_line

LONGEST_NOTE = 2_000
_LONGEST_TITLE = 200


@dataclass(frozen=True, slots=True)
class FailureGroup:
    """Failed executions of a task with the same fingerprint, with their counts."""

    id: UUID
    workspace_id: UUID
    task_id: UUID
    task_name: str | None
    """None once the task is deleted."""
    fingerprint: str
    state: FailureState
    note: str
    version: int
    """Grows with each change of its state and note."""
    failures: int
    retried_completed: int
    """How many of the failures were repeated, and a repeat completed."""
    first_seen_at: datetime
    last_seen_at: datetime
    resolved_at: datetime | None
    first_execution_id: UUID
    last_execution_id: UUID
    error_code: str | None
    """As `error_type` and `error_message`, of the last execution."""
    error_type: str | None
    error_message: str | None

    @property
    def title(self) -> str:
        """The class of the error and the first line of its message, at most 200 characters."""
        line = first_line(self.error_message or "")
        kind = self.error_type or self.error_code or ""
        text = line if not kind or line.startswith(kind) else f"{kind}: {line}".rstrip(": ")
        return text[:_LONGEST_TITLE]

    @property
    def key(self) -> FailureKey:
        """What its executions have."""
        return FailureKey(self.task_id, self.fingerprint)


@dataclass(frozen=True, slots=True, kw_only=True)
class FailureFilter:
    """The groups of a workspace to list; empty and None mean all."""

    workspace_id: UUID
    states: Sequence[FailureState] = ()
    task_id: UUID | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FailureChange:
    """What people change of a group; None leaves it as it is."""

    state: FailureState | None = None
    note: str | None = None
    version: int | None = None
    """The version that it must have."""
