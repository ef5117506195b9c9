"""The doors of the services: what they need from the outside, where more than one kind exists."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Protocol
from uuid import UUID

from celeriac.domain.agents import AgentSpec
from celeriac.domain.approvals import Answer, Question
from celeriac.domain.budgets import Budget
from celeriac.domain.cassettes import Cassette, Interaction
from celeriac.domain.executions.events import EventType
from celeriac.domain.executions.model import NO_OPTIONS, Completed, Message, Parked, RunOptions
from celeriac.domain.sessions import Session
from celeriac.domain.tasks import Limits
from celeriac.domain.usage import (
    CallEstimate,
    ModelCall,
    RateDenied,
    RateGrant,
    RateRequest,
    Reservation,
)
from celeriac.kit.json_types import JsonObject, JsonValue
from celeriac.services.executions.time_limits import TimeLimits


@dataclass(frozen=True, slots=True)
class Envelope:
    """A message with its address in the broker."""

    message: Message
    celery_task_id: str
    queue: str
    priority: int
    """0 (low) to 3 (critical); the adapter maps it to the broker's own order."""


class TaskQueue(Protocol):
    """Sends messages to workers. Sending is at-least-once in effect and may be ambiguous."""

    def send(self, envelopes: Sequence[Envelope]) -> None:
        """Publish all `envelopes`.

        Raises BrokerUnavailableError within a bounded time (about a second) when the broker
        doesn't answer; some of the messages may have been published even then.
        """
        ...

    def depth(self, queue: str) -> int:
        """Return how many messages wait in `queue` and are not yet taken by a worker.

        Raises BrokerUnavailableError.
        """
        ...


class LiveEvents(Protocol):
    """Tells who watches that there is something new. Best effort: the database has the truth.

    No method raises for an unreachable server, and none blocks the caller.
    """

    def changed(self, execution_ids: Sequence[UUID]) -> None:
        """Say that the executions have new events."""
        ...

    def delta(self, execution_id: UUID, data: JsonObject) -> None:
        """Hand a piece of streaming output to those who watch; it is never stored."""
        ...

    def cancel(self, execution_ids: Sequence[UUID]) -> None:
        """Tell the workers to stop these executions now; the heartbeat tells them surely."""
        ...


class RateLimiter(Protocol):
    """Holds rates that all workers share, and the bans that providers speak.

    Best effort: without its server every call is let through, after a bounded time (about half a
    second, and then at once for a few seconds). No method raises for an unreachable server.
    """

    def take(
        self, demands: Sequence[RateRequest], *, name: str, enqueue: bool
    ) -> RateGrant | RateDenied:
        """Take what a call of `name` (`provider/model`) demands, from all its rates or from none.

        No window of a minute, wherever it begins, holds more than a rate allows. With
        `enqueue` a refused call joins the queue of its limit: it waits until those before it have
        had their turn.
        """
        ...

    def correct(self, taken: RateGrant, tokens: int) -> None:
        """Put the tokens that a call used in the place of those it was thought to need."""
        ...

    def give_back(self, taken: RateGrant) -> None:
        """Take back a call that was not made."""
        ...

    def ban(self, name: str, seconds: float) -> None:
        """Refuse all calls of `name` (`provider/model`) for so long; never shortens a ban."""
        ...


@dataclass(frozen=True, slots=True)
class Job:
    """One attempt's work, complete: a runner needs no database."""

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
    owner_id: UUID | None = None
    task_id: UUID | None = None
    budget: Budget | None = None
    """What this execution's model calls may cost together: the caller's limit, or the task's."""
    session: Session | None = None
    """The session to go on with: an earlier execution's, or this one's own after it was parked."""

    @property
    def forks(self) -> bool:
        """Whether the session is another's that must stay as it is: work in a copy of it."""
        own = self.session is None or self.session.execution_id == self.execution_id
        return self.options.fork_session and not own


class RunContext(Protocol):
    """What a runner may do with the world besides its own work. Safe to use from any loop."""

    @property
    def workdir(self) -> Path:
        """A directory of this execution's own; made on first use."""
        ...

    @property
    def time_limits(self) -> TimeLimits:
        """The attempt's limits; they stand still while `ask`, or `admit`, waits for a person."""
        ...

    @property
    def correlation(self) -> Mapping[str, str]:
        """The ids that every log line of this attempt carries, for child processes."""
        ...

    def idempotency_key(self, step: str) -> str:
        """Return `execution_id:step`, the same in every attempt, for outside effects."""
        ...

    async def emit(self, kind: EventType, data: JsonObject) -> None:
        """Add an event to the execution's log; stored in batches, in this order.

        Raises LeaseLostError once this worker no longer owns the attempt.
        """
        ...

    def delta(self, data: JsonObject) -> None:
        """Show a piece of streaming output to those who watch; never stored."""
        ...

    async def admit(self, call: CallEstimate) -> Reservation | None:
        """Ask leave for a model call, of the provider's limits and of all budgets; may wait.

        The ticket, if there is one, must be given to `charge` when the call has ended, however it
        did. Raises MustWaitError where the attempt is to be parked, and BudgetSpentError.
        """
        ...

    async def charge(self, call: ModelCall, ticket: Reservation | None = None) -> None:
        """Record a model call with its tokens, latency and cost, and settle its ticket.

        A call that was made without asking leave is booked all the same; raises BudgetSpentError
        where it exceeds a budget.
        """
        ...

    async def release(self, ticket: Reservation) -> None:
        """Give back the leave for a model call that came to nothing: it was refused, or failed."""
        ...

    async def ask(self, question: Question) -> Answer:
        """Ask a person and wait here for the answer; the attempt keeps its slot meanwhile.

        For agents that can't be parked; the others return `Parked` with their questions. A
        question that was answered before, in this attempt or an earlier one, is not asked again.
        Raises ApprovalExpiredError.
        """
        ...

    async def answers(self) -> Mapping[str, Answer]:
        """Return the answers that this execution's questions have, by the questions' keys."""
        ...

    async def save_session(
        self, *, external_id: str | None = None, state: JsonValue = None
    ) -> UUID:
        """Store what another attempt or execution needs to go on; return the session's id.

        Makes the session on first use; None keeps what is stored. A session that the job came
        with is written to, but one that is to be forked is left alone and named as the parent of
        a new one. Raises LeaseLostError.
        """
        ...

    async def cassette(self) -> Cassette:
        """Return the cassette that the job's options name. Raises CassetteUnavailableError."""
        ...

    async def record(self, interactions: Sequence[Interaction], *, complete: bool) -> bool:
        """Add recorded model traffic to the execution's cassette; return whether all is kept.

        `complete` says whether it is all that there was. What is over the size limit is dropped,
        and so is all that comes after it. Raises LeaseLostError.
        """
        ...

    async def progress(self, done: float, total: float | None = None, note: str = "") -> None:
        """Say how far the work is; kept on the execution's row and in its log."""
        ...


class Runner(Protocol):
    """Drives one kind of agent.

    Failing is raising: an `ExecutionError` tells by its class whether a retry may help; any other
    exception counts as retryable. Cancellation and the soft limit arrive as
    `asyncio.CancelledError`; by the time `run` ends nothing that it started may be left.
    """

    name: ClassVar[str]
    resumable: ClassVar[bool]
    """Whether an attempt can be parked and another one go on from its session."""
    runs_user_code: ClassVar[bool]
    """Whether `run` calls code of users in this process: it gets an event loop of its own then."""

    async def run(self, job: Job, context: RunContext) -> Completed | Parked:
        """Do the work and return its result, or that it waits with its session saved.

        A MustWaitError of the context may be let through once the session is saved; one that
        can't be resumed never meets it.
        """
        ...


class Runners(Protocol):
    """Finds the runner of an agent."""

    def get(self, agent: AgentSpec) -> Runner:
        """Return the runner; raises AgentMisconfiguredError where it isn't installed."""
        ...
