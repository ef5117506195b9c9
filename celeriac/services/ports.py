"""Protocols of what services use and upper floors implement, with more than one kind each."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol
from uuid import UUID

from celeriac.domain.agents import AgentSpec
from celeriac.domain.approvals import Answer, Question
from celeriac.domain.budgets import Budget
from celeriac.domain.cassettes import Cassette, Interaction
from celeriac.domain.executions.calls import Call, CallOutcome
from celeriac.domain.executions.events import EventType
from celeriac.domain.executions.model import Completed, Parked, QueuedMessage
from celeriac.domain.executions.options import NO_OPTIONS, RunOptions
from celeriac.domain.executions.steps import Child, NewChildren, NewStep, StoredStep
from celeriac.domain.labels import Labels
from celeriac.domain.repositories import Repository, RepositoryAccess
from celeriac.domain.secrets.model import HostCredential
from celeriac.domain.sessions import Session, TranscriptKey
from celeriac.domain.tasks import Limits
from celeriac.domain.usage import (
    CallEstimate,
    ModelCall,
    RateDenied,
    RateGrant,
    RateRequest,
    Reservation,
)
from celeriac.domain.workflows.records import ResultsPage
from celeriac.kit.json_types import JsonObject, JsonValue
from celeriac.services.time_limits import TimeLimits


class TaskQueue(Protocol):
    """Sends messages to workers, at least once."""

    def send(self, messages: Sequence[QueuedMessage]) -> None:
        """Publish all `messages`.

        Raises BrokerUnavailableError within about a second if the broker doesn't answer; some of
        the messages may have been published even then.
        """
        ...

    def depth(self, queue: str) -> int:
        """Return how many messages in `queue` no worker has received.

        Raises BrokerUnavailableError.
        """
        ...


class CallEnding(Protocol):
    """Ends Celery tasks outside of Celery's worker; implemented in the adapters."""

    def end(self, call: Call, outcome: CallOutcome) -> None:
        """Store the result of a Celery task, and go on with what follows it.

        May be repeated. Raises any error of the broker or the result backend; then the end must be
        tried again. Raises CeleryCallError for what follows the task if that can't be sent.
        """
        ...

    def keep(self, calls: Sequence[Call]) -> None:
        """Prolong what the result backend has of Celery tasks that have not ended."""
        ...


class LiveEvents(Protocol):
    """Publishes change notifications to watchers and workers. Best effort.

    No method raises for an unreachable server, and none blocks the caller.
    """

    def changed(self, execution_ids: Sequence[UUID]) -> None:
        """Publish that the executions have new events."""
        ...

    def delta(self, execution_id: UUID, data: JsonObject) -> None:
        """Publish a piece of streaming output; it is never stored."""
        ...

    def cancel(self, execution_ids: Sequence[UUID]) -> None:
        """Notify workers of cancellations now; the heartbeat finds them in any case."""
        ...


class RateLimiter(Protocol):
    """Rate limits shared by all workers, and temporary bans after a provider's 429.

    Best effort: if its server is unreachable every call is allowed, after about half a second and
    then at once for a few seconds. No method raises for an unreachable server.
    """

    def take(
        self, requests: Sequence[RateRequest], *, name: str, enqueue: bool
    ) -> RateGrant | RateDenied:
        """Take what a call of `name` (`provider/model`) needs from all its rates, or nothing.

        No minute, wherever it begins, exceeds a rate. With `enqueue` a denied call joins the queue
        of its limit, and its seconds count the calls before it.
        """
        ...

    def correct(self, taken: RateGrant, tokens: int) -> None:
        """Replace the estimated tokens of a call by those it used."""
        ...

    def give_back(self, taken: RateGrant) -> None:
        """Take back a call that was not made."""
        ...

    def ban(self, name: str, seconds: float) -> None:
        """Deny all calls of `name` (`provider/model`) for `seconds`; never shortens a ban."""
        ...


CHECKOUT = "repository"
"""The directory of a checkout in the one of its execution."""


@dataclass(frozen=True, slots=True)
class Checkout:
    """The checkout of a repository in which an agent works.

    `top` is the directory of the checkout, `workdir` the one in it in which the agent works, and
    `home` the home of its processes: they may write to all of these. `check` runs the checks of the
    task: it returns the message for the agent if one fails and it may try again, and None if none
    does; it raises VerifyFailedError for the last failure.
    """

    top: Path
    workdir: Path
    home: Path
    check: Callable[[], Awaitable[str | None]]


@dataclass(frozen=True, slots=True)
class Job:
    """The complete work of one attempt: a runner needs no database."""

    execution_id: UUID
    attempt: int
    task_name: str
    agent_name: str
    agent: AgentSpec
    prompt: str
    variables: JsonObject
    output_schema: JsonObject | None
    limits: Limits
    options: RunOptions = NO_OPTIONS
    workspace_id: UUID | None = None
    owner_id: UUID | None = None
    task_id: UUID | None = None
    budget: Budget | None = None
    """The budget of this execution: the caller's, or else the task's."""
    retry_count: int = 0
    """How many attempts failed and were retried."""
    request_id: str | None = None
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Values of secrets, by the environment variables of the agent's processes."""
    credentials: tuple[HostCredential, ...] = field(default=(), repr=False)
    """What the proxy of the attempt adds to requests."""
    session: Session | None = None
    """The session to continue: an earlier execution's, or its own after it was parked."""
    repository: Repository | None = None
    """The repository whose checkout is the working directory."""
    repository_access: RepositoryAccess | None = field(default=None, repr=False)
    """The credentials of the repository, which its agent does not get."""
    checkout: Checkout | None = None
    """Its checkout, once it is made."""
    feedback: str | None = None
    """The output of the check that has failed after the agent had ended in this attempt."""

    @property
    def has_budget(self) -> bool:
        """Whether the execution has a budget, its own or one that it shares with its parent."""
        return self.budget is not None or self.options.tree is not None

    @property
    def forks(self) -> bool:
        """Whether the session belongs to another execution and must be copied."""
        own = self.session is None or self.session.execution_id == self.execution_id
        return self.options.fork_session and not own


class StoredSteps(Protocol):
    """The stored steps of an execution, and the executions that they have started.

    All methods raise LeaseLostError once this worker no longer owns the attempt.
    """

    async def load(self) -> Sequence[StoredStep]:
        """Return all stored steps in the order of their numbers; large results are left out."""
        ...

    async def result(self, number: int) -> JsonValue:
        """Return the result of a stored step."""
        ...

    async def store(self, step: NewStep) -> float | None:
        """Store a step and its event. When this returns they are committed.

        Returns the seconds until the end of a sleep, by the database's clock.
        """
        ...

    async def start(self, number: int, new: NewChildren, step: NewStep | None) -> None:
        """Start children of the step with this number; with `step`, store it in the same commit.

        Raises AgentMisconfiguredError for an unknown task, VariablesInvalidError,
        TemplateRenderError, and PermanentError for too many generations. Nothing is stored then.
        """
        ...

    async def children(self, number: int) -> Mapping[int, Child]:
        """Return the children of a step by their items in its list, without results."""
        ...

    async def results(self, number: int, *, most_bytes: int) -> Mapping[int, Child] | None:
        """Return the children of a step by their items in its list, with results.

        None if they have more than `most_bytes` of JSON together.
        """
        ...


class Transcripts(Protocol):
    """The conversation of a session, as the agent's own SDK writes it; entries are appended."""

    async def append(self, key: TranscriptKey, entries: Sequence[JsonValue]) -> None:
        """Add entries; one whose `uuid` is there already is left out. Raises LeaseLostError."""
        ...

    async def load(self, key: TranscriptKey) -> list[JsonValue]:
        """Return all entries, in their order."""
        ...

    async def subpaths(self, key: TranscriptKey) -> list[str]:
        """Return the parts of a conversation besides its main transcript."""
        ...


class RunContext(Protocol):
    """What a runner may do besides its own work. Safe to use from any event loop."""

    @property
    def workdir(self) -> Path:
        """The execution's own directory; created on first use."""
        ...

    @property
    def time_limits(self) -> TimeLimits:
        """The attempt's limits; paused while `ask` or `admit` waits for a person."""
        ...

    @property
    def correlation(self) -> Mapping[str, str]:
        """The ids in every log line of this attempt, for child processes."""
        ...

    @property
    def stored_steps(self) -> StoredSteps:
        """The execution's stored steps."""
        ...

    async def step_results(self, step: str, *, run_id: UUID | None, after: int) -> ResultsPage:
        """Return results of a step of the workflow's run that the execution is part of.

        Those of items numbered above `after`, as many as fit into a page. `run_id` names a run
        above it. Raises InvalidInputError if there is no such step, or it has not ended.
        """
        ...

    def idempotency_key(self, step: str) -> str:
        """Return `execution_id:step`, the same in every attempt, as an idempotency key."""
        ...

    async def emit(self, kind: EventType, data: JsonObject) -> None:
        """Add an event to the execution's log; stored in batches, in this order.

        Raises LeaseLostError once this worker no longer owns the attempt.
        """
        ...

    def delta(self, data: JsonObject) -> None:
        """Publish a piece of streaming output to watchers; never stored."""
        ...

    async def admit(self, call: CallEstimate) -> Reservation | None:
        """Check a model call against rate limits and budgets; may wait.

        A returned reservation must be passed to `charge` or `release` when the call has ended.
        Raises MustWaitError if the attempt must be parked, and BudgetSpentError.
        """
        ...

    async def charge(self, call: ModelCall, reservation: Reservation | None = None) -> None:
        """Record a model call with its tokens, latency and cost, and settle its reservation.

        A call without one is charged as well; raises BudgetSpentError if it exceeds a budget.
        """
        ...

    async def release(self, reservation: Reservation) -> None:
        """Give back the reservation of a model call that was refused or failed."""
        ...

    async def ask(self, question: Question) -> Answer:
        """Ask a person and wait for the answer; the attempt keeps its slot.

        For agents that can't be parked; the others return `Parked` with their questions. A question
        that was answered in this or an earlier attempt is not asked again. Raises
        ApprovalExpiredError.
        """
        ...

    async def answers(self) -> Mapping[str, Answer]:
        """Return the answers to this execution's questions, by the questions' keys."""
        ...

    def transcripts(self, session_id: UUID) -> Transcripts:
        """Return the conversation of a session: the attempt's own, or the one it forks."""
        ...

    async def session_files(
        self, session_id: UUID, directory: Path, *, copy_of: UUID | None = None
    ) -> None:
        """Make `directory` the saved working directory of a session; it is saved at the end.

        With `copy_of` it becomes a copy of another session's. Raises ObjectStoreError and
        ObjectMissingError.
        """
        ...

    async def save_session(
        self,
        *,
        external_id: str | None = None,
        state: JsonValue = None,
        messages: Sequence[JsonValue] | None = None,
    ) -> UUID:
        """Store what a later attempt or execution needs to continue; return the session's id.

        `messages` is the whole conversation. Only what differs from the stored one is written, so
        what grows belongs there and not into `state`, which is written anew each time.
        Creates the session on first use; None keeps a value. Writes to the job's session, unless it
        is to be forked: then that one is the parent of a new session. Raises LeaseLostError.
        """
        ...

    async def cassette(self) -> Cassette:
        """Return the cassette that the job's options name. Raises CassetteUnavailableError."""
        ...

    async def record(self, interactions: Sequence[Interaction], *, complete: bool) -> bool:
        """Add recorded model traffic to the execution's cassette; return whether it is complete.

        `complete` says whether nothing was left out so far. Traffic beyond the size limit is
        dropped, and all that follows. Raises LeaseLostError.
        """
        ...

    async def label(self, changes: Mapping[str, JsonValue]) -> Labels:
        """Set labels of the execution, and remove those with None; return all that it has then.

        Raises InvalidInputError, which names the label, and LeaseLostError.
        """
        ...

    async def progress(self, done: float, total: float | None = None, note: str = "") -> None:
        """Report progress; stored on the execution's row and in its log."""
        ...


class Runner(Protocol):
    """Drives one kind of agent.

    A failure is an exception: the class of an `ExecutionError` says whether a retry may help; any
    other exception is retryable. Cancellation and the soft limit arrive as
    `asyncio.CancelledError`; nothing that `run` started may outlive it.
    """

    @property
    def name(self) -> str:
        """The kind of agent."""
        ...

    @property
    def resumable(self) -> bool:
        """Whether an attempt can be parked and a later one continue its session."""
        ...

    @property
    def runs_user_code(self) -> bool:
        """Whether `run` calls users' code in this process; it has its own event loop then."""
        ...

    def only_waits(self, agent: AgentSpec) -> bool | None:
        """Whether an attempt of `agent` does little but wait: it starts no process.

        Then it holds no slot of the worker. None if that is not known yet; it is once `run` has
        begun.
        """
        ...

    async def run(self, job: Job, context: RunContext) -> Completed | Parked:
        """Do the work and return its result, or `Parked` with the session saved.

        A MustWaitError of the context may be raised once the session is saved; the context of a
        runner that is not resumable never raises it.
        """
        ...


class Runners(Protocol):
    """Finds the runner of an agent."""

    def get(self, agent: AgentSpec) -> Runner:
        """Return the runner. Raises AgentMisconfiguredError if it isn't installed."""
        ...
