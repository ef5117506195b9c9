"""Executions: the row, its specification, and the outcomes of attempts."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from uuid import UUID

from pydantic import TypeAdapter

from celeriac.domain.agents import AgentSpec
from celeriac.domain.approvals import Question
from celeriac.domain.executions.calls import NewCall
from celeriac.domain.executions.deliveries import NewHookDelivery
from celeriac.domain.executions.flags import Flag
from celeriac.domain.executions.options import NO_OPTIONS, RunOptions, run_options
from celeriac.domain.executions.states import Held, Status, WaitingFor
from celeriac.domain.executions.triggers import TriggerType
from celeriac.domain.labels import Label, Labels
from celeriac.domain.tasks import TaskSpec
from celeriac.domain.workspace_limits import WorkspaceLimit
from celeriac.kit.json_types import JsonObject, JsonValue


@dataclass(frozen=True, slots=True)
class Cause:
    """The origin of an execution, which all its log lines name."""

    request_id: str | None
    user_id: UUID
    task_id: UUID

    def ids(self) -> dict[str, str]:
        """Return the correlation ids that are known."""
        ids = {"user_id": str(self.user_id), "task_id": str(self.task_id)}
        return ids if self.request_id is None else {"request_id": self.request_id, **ids}


@dataclass(frozen=True, slots=True)
class Message:
    """A message at the broker: a hint that this attempt may be claimed."""

    execution_id: UUID
    attempt: int
    """The attempt count of the row when it was queued; the claim increments it."""
    celery_task_id: str
    """The row's if this is its last message: an earlier one claims nothing."""


@dataclass(frozen=True, slots=True)
class QueuedMessage:
    """A message to send: its row was just marked `queued`."""

    message: Message
    queue: str
    priority: int
    """0 (low) to 3 (critical); the adapter maps it to the broker's own order."""
    cause: Cause


@dataclass(frozen=True, slots=True)
class WorkerIdentity:
    """A process that runs executions: the id of its row in `workers`, and `HOSTNAME/PID`."""

    id: UUID
    name: str

    @property
    def node(self) -> str:
        """The name of its Celery node, which several processes may have."""
        return self.name.partition("/")[0]


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to write one attempt: every write of a worker names all three values."""

    execution_id: UUID
    attempt: int
    token: UUID


@dataclass(frozen=True, slots=True)
class Claim:
    """The values of a claimed execution that its worker needs."""

    lease: Lease
    task_id: UUID
    task_version_id: UUID
    agent_version_id: UUID
    workspace_id: UUID
    owner_id: UUID
    variables: JsonObject
    retry_count: int
    celery_task_id: str
    request_id: str | None
    queue: str
    session_id: UUID | None
    trigger_type: str
    stored_options: JsonObject | None
    """Not parsed: a newer API may have stored options that this worker can't read."""
    run_id: UUID | None = None
    """The run of a workflow that it is a part of."""
    last_chance: bool = False
    """Whether it was lost with its worker before, and fails if that happens again."""
    parent_id: UUID | None = None
    """The execution that has started it."""
    limit_keys: Sequence[str] | None = None
    """The keys of its limits, of which it has slots."""
    traceparent: str | None = None
    """The span that has submitted it, in the W3C's form."""

    @property
    def is_counted(self) -> bool:
        """Whether a run, a parent, a Celery task or a limit counts its end."""
        return (
            self.run_id is not None
            or self.parent_id is not None
            or self.trigger_type == TriggerType.CELERY
            or self.limit_keys is not None
        )

    @property
    def options(self) -> RunOptions:
        """The options; raises SpecificationUnreadableError."""
        return run_options(self.stored_options)


@dataclass(frozen=True, slots=True)
class Execution:
    """The whole row, as the API reads it. Times are in UTC, durations in seconds."""

    id: UUID
    workspace_id: UUID
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
    parent_id: UUID | None
    root_id: UUID | None
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
    cancel_requested_at: datetime | None
    cancel_requested_by: str | None
    waiting_for: WaitingFor | None
    waiting_until: datetime | None
    held: Held | None
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
    waiting_since: datetime | None = None
    """When it began to wait for a worker, or for what `waiting_for` names."""
    truncated: bool = False
    """Whether the model's token limit cut the result off."""
    error_type: str | None = None
    """The class of the last attempt's exception."""
    workflow_run_id: UUID | None = None
    """The run of a workflow that has made it as an item of a step."""
    step: str | None = None
    item: int | None = None
    """From 0."""
    expires_at: datetime | None = None
    """It is cancelled if its first attempt has not begun by then."""
    limit_keys: Sequence[str] | None = None
    """The keys of its limits; None without limits."""
    labels: Labels = field(default_factory=dict)
    cached_tokens: int = 0
    """Of the input tokens, those that the provider had in its cache."""
    denied_tool_count: int = 0
    no_op: bool = False
    active_at: datetime | None = None
    """Of a running one: when its attempt began, or last stored an event or got an answer."""
    silent: bool = False

    @property
    def cache_hit_ratio(self) -> float | None:
        """The share of the input tokens that the provider had in its cache; None without any."""
        return round(self.cached_tokens / self.input_tokens, 4) if self.input_tokens else None

    @property
    def flags(self) -> Sequence[Flag]:
        """Return what is worth a look at it."""
        having = {
            Flag.NO_OP: self.no_op,
            Flag.TOOLS_DENIED: self.denied_tool_count > 0,
            Flag.TRUNCATED: self.truncated,
            Flag.SILENT: self.silent,
        }
        return tuple(flag for flag, has in having.items() if has)

    @property
    def ended_unbegun(self) -> bool:
        """Whether it was cancelled before it began, for the reason that its error names."""
        return self.status is Status.CANCELLED and not self.attempt and bool(self.error_code)

    @property
    def may_expire(self) -> bool:
        """Whether it is cancelled at `expires_at`, because it has not begun."""
        return self.expires_at is not None and self.started_at is None and not self.status.terminal


@dataclass(frozen=True, slots=True)
class FailureKey:
    """What the executions of a group of failures have (docs/failures.md)."""

    task_id: UUID
    fingerprint: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutionFilter:
    """The executions to list; empty and None mean all. Times are those of creation."""

    workspace_id: UUID | None = None
    """None for what names a task, an agent, a batch, an origin or a session. Only lists of one
    workspace have indexes for the other filters."""
    ids: Sequence[UUID] = ()
    statuses: Sequence[Status] = ()
    task_id: UUID | None = None
    agent_id: UUID | None = None
    """Any version of this agent."""
    batch_id: UUID | None = None
    origin_id: UUID | None = None
    parent_id: UUID | None = None
    session_id: UUID | None = None
    trigger_type: TriggerType | None = None
    waiting_for: WaitingFor | None = None
    error_code: str | None = None
    labels: Sequence[Label] = ()
    """That have all of these labels; only of one workspace."""
    without_labels: Sequence[Label] = ()
    """That have none of these labels."""
    flag: Flag | None = None
    failure: FailureKey | None = None
    """Failed, of this group of failures."""
    created_after: datetime | None = None
    created_before: datetime | None = None
    cancellable: bool = False
    """Only executions that have not ended and whose cancellation was not requested."""
    queue: str | None = None
    """Only together with `cancellable`: executions that have ended have no index of their queues.
    """


BULKY = ("variables", "result", "error_details")
"""The fields of an execution that may be large; lists omit them by default."""


_AGENT: TypeAdapter[AgentSpec] = TypeAdapter(AgentSpec)


@dataclass(frozen=True, slots=True)
class ExecutionSpec:
    """A version of a task with one of its agent: what an execution runs, without its variables."""

    task_id: UUID
    task_name: str
    workspace_id: UUID
    owner_id: UUID
    task_version_id: UUID
    task: TaskSpec
    agent_version_id: UUID
    agent_name: str
    agent: AgentSpec
    limits: Sequence[WorkspaceLimit] = ()
    """Of a current specification: the limits of the workspace that are about the task."""
    limits_revision: int = 0
    """The revision of the workspace's limits that these are of, or of an earlier one."""

    @property
    def names_secrets(self) -> bool:
        """Whether an attempt is given secrets, by its agent or its task's repository."""
        repository = self.task.repository
        return bool(self.agent.secrets) or (
            repository is not None and repository.secret is not None
        )


def agent_spec(stored: JsonObject) -> AgentSpec:
    """Read an agent's stored specification."""
    return _AGENT.validate_python(stored)


@dataclass(frozen=True, slots=True)
class Idempotency:
    """A client's key, and the fingerprint of the request sent with it."""

    key: str
    fingerprint: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SubmitRequest:
    """What to run. The task supplies values that are None."""

    task_id: UUID
    variables: JsonObject = field(default_factory=dict)
    priority: int | None = None
    queue: str | None = None
    delay_seconds: float = 0.0
    """Run no earlier than this long from now, by the database's clock."""
    available_at: datetime | None = None
    """Run no earlier than this time; replaces `delay_seconds`."""
    expires_in: float | None = None
    """Cancel it if it has not begun after so many seconds, instead of those of its task."""
    expires_at: datetime | None = None
    """Cancel it if it has not begun by this time; replaces `expires_in`."""
    trigger_type: TriggerType = TriggerType.MANUAL
    execution_mode: str = "async"
    origin_id: UUID | None = None
    session_id: UUID | None = None
    """The session to continue, or with `options.fork_session` to continue in a copy."""
    options: RunOptions = NO_OPTIONS
    labels: Labels = field(default_factory=dict)
    idempotency: Idempotency | None = None
    call: NewCall | None = None
    """The Celery task that ends with it."""
    delivery: NewHookDelivery | None = None
    """The delivery to a hook that is stored with it."""


@dataclass(frozen=True, slots=True)
class Completed:
    """The work is done; `result` is any JSON value.

    `truncated` says that it is a text that the model's token limit cut off.
    """

    result: JsonValue
    truncated: bool = False


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an attempt failed, ready to be stored.

    `details` holds at least `type`, `traceback` and `attempt` (REQUIREMENTS A5).
    """

    code: str
    message: str
    details: JsonObject = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Retry:
    """The attempt failed; another follows after `delay` seconds."""

    failure: Failure
    delay: float


@dataclass(frozen=True, slots=True)
class Failed:
    """The attempt failed, and there is no retry."""

    failure: Failure


@dataclass(frozen=True, slots=True)
class Stopped:
    """The attempt was stopped because the execution was cancelled."""


@dataclass(frozen=True, slots=True)
class HandedBack:
    """The worker returns the execution; this counts neither as a retry nor as a crash.

    It shuts down, or it can't run the attempt itself; `failure` then has the reason. Another
    attempt follows after `delay` seconds.
    """

    failure: Failure | None = None
    delay: float = 0.0


@dataclass(frozen=True, slots=True)
class Parked:
    """The attempt ends and its worker is free; another attempt goes on.

    The execution resumes when all `questions` are answered, after `seconds`, or when all its
    `children` have ended: whatever comes first. For the reason `child` also when one of its
    `live_children` has ended.
    """

    reason: WaitingFor
    note: str
    """The reason, in a sentence for people."""
    questions: tuple[Question, ...] = ()
    seconds: float | None = None
    children: bool = False
    live_children: int | None = None
    """How many had not ended when the attempt looked."""

    def __post_init__(self) -> None:
        """Refuse what would wait forever."""
        if not self.questions and self.seconds is None and not self.children:
            raise ValueError("a parked execution needs a question, a time or children")


class MustWaitError(Exception):
    """Raised inside an agent whose attempt must be parked; has the outcome."""

    def __init__(self, parked: Parked) -> None:
        super().__init__(parked.note)
        self.parked = parked


Outcome = Completed | Retry | Failed | Stopped | HandedBack | Parked
"""The outcomes of an attempt whose worker still holds the lease."""
