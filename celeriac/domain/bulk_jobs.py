"""Bulk jobs: one action for many executions, which are selected once and changed in batches."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

from celeriac.domain.accounts import Role
from celeriac.domain.bulk_actions import BulkAction, BulkOutcome, BulkStatus, Reason
from celeriac.domain.executions.model import Execution, ExecutionFilter
from celeriac.domain.executions.states import Status
from celeriac.kit.json_types import JsonObject

MAX_SCOPE = 100_000
"""The most executions of a job: 16 bytes each on its row."""

PREVIEW_SECONDS = 3_600.0
"""How long a preview can be started."""


@dataclass(frozen=True, slots=True)
class BulkJob:
    """A bulk job without the ids of its executions."""

    id: UUID
    workspace_id: UUID
    owner_id: UUID
    created_by: str
    """The owner's name at the time."""
    role: Role
    """What the owner could do when they made it: it never does more."""
    request_id: str | None
    action: BulkAction
    arguments: JsonObject
    filter: JsonObject
    """As given."""
    status: BulkStatus
    total: int
    """How many executions it has."""
    more: bool
    """Whether more matched than a job, or its limit, may have."""
    position: int
    """How many of them, from the first, have an outcome."""
    done: int
    skipped: int
    failed: int
    reasons: Mapping[str, int]
    """How many executions were skipped or failed, by the code of the reason."""
    error: str | None
    """Why it failed."""
    created_at: datetime
    started_at: datetime | None
    worked_at: datetime | None
    completed_at: datetime | None
    stopped_by: str | None


@dataclass(frozen=True, slots=True)
class BulkItem:
    """What became of one execution."""

    execution_id: UUID
    outcome: BulkOutcome
    code: str | None = None
    message: str | None = None
    new_execution_id: UUID | None = None

    @classmethod
    def skipped(cls, execution_id: UUID, reason: Reason) -> "BulkItem":
        """Return the item of an execution that was left as it is."""
        return cls(execution_id, BulkOutcome.SKIPPED, reason.code, reason.message)


@dataclass(frozen=True, slots=True, kw_only=True)
class NewBulkJob:
    """A request for a preview."""

    action: BulkAction
    arguments: JsonObject
    given: JsonObject
    """The filter as given."""
    wanted: ExecutionFilter
    limit: int = MAX_SCOPE


@dataclass(frozen=True, slots=True)
class BulkPreview:
    """What a job would do, if it were started now."""

    job: BulkJob
    expires_at: datetime
    statuses: Mapping[Status, int]
    """How many of the newest 10,000 executions have each status."""
    sample: Sequence[Execution]
    """The newest ten."""
    looked_at: int
    """How many of the newest executions were checked for `unfit`."""
    unfit: Mapping[UUID, Reason] = field(default_factory=dict)
    """Why these would be skipped."""
