"""Executions: one run of a task, the central row of the system."""

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from uuid import UUID

from celeriac.domain.options import RunOptions, run_options
from celeriac.domain.outcome import WaitingFor
from celeriac.domain.states import Status
from celeriac.kit.jsontypes import JsonObject, JsonValue


class TriggerType(StrEnum):
    """What started an execution (REQUIREMENTS A3)."""

    MANUAL = "manual"
    SCHEDULED = "scheduled"
    WEBHOOK = "webhook"
    WORKFLOW = "workflow"


@dataclass(frozen=True, slots=True)
class Cause:
    """What an execution comes from; its log lines say so wherever they are written."""

    request_id: str | None
    user_id: UUID
    task_id: UUID

    def ids(self) -> dict[str, str]:
        """Return the correlation ids that are known."""
        ids = {"user_id": str(self.user_id), "task_id": str(self.task_id)}
        return ids if self.request_id is None else {"request_id": self.request_id, **ids}


@dataclass(frozen=True, slots=True)
class Message:
    """What travels through the broker: a hint that this attempt may be claimed."""

    execution_id: UUID
    attempt: int
    """The attempt count of the row when it was queued; the claim makes it attempt + 1."""


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to write one attempt: every write of a worker names all three values."""

    execution_id: UUID
    attempt: int
    token: UUID


@dataclass(frozen=True, slots=True)
class Claim:
    """What a worker needs to run an execution that it has just claimed."""

    lease: Lease
    task_id: UUID
    task_version_id: UUID
    agent_version_id: UUID
    owner_id: UUID
    variables: JsonObject
    retry_count: int
    celery_task_id: str
    request_id: str | None
    queue: str
    session_id: UUID | None
    stored_options: JsonObject | None
    """As they are stored: a newer API may have written what this worker can't read."""

    @property
    def options(self) -> RunOptions:
        """The options of the run; raises SpecificationUnreadableError."""
        return run_options(self.stored_options)


@dataclass(frozen=True, slots=True)
class Execution:
    """The whole row, as read by the API. Times are aware and in UTC, durations in seconds."""

    id: UUID
    owner_id: UUID
    task_id: UUID
    task_name: str
    task_version_id: UUID
    agent_version_id: UUID
    status: Status
    trigger_type: TriggerType
    execution_mode: str
    priority: int
    queue: str
    variables: JsonObject
    result: JsonValue
    error_code: str | None
    error_message: str | None
    error_details: JsonObject | None
    attempt: int
    retry_count: int
    crash_count: int
    celery_task_id: str | None
    worker_hostname: str | None
    origin_id: UUID | None
    batch_id: UUID | None
    session_id: UUID | None
    options: RunOptions
    request_id: str | None
    created_at: datetime
    available_at: datetime
    queued_at: datetime | None
    started_at: datetime | None
    completed_at: datetime | None
    duration_seconds: float | None
    lease_until: datetime | None
    cancel_requested_at: datetime | None
    cancel_requested_by: str | None
    waiting_for: WaitingFor | None
    waiting_until: datetime | None
    event_seq: int
    message_count: int
    tool_call_count: int
    model_call_count: int
    input_tokens: int
    output_tokens: int
    cost: Decimal
    progress_done: float | None
    progress_total: float | None
    progress_note: str | None
