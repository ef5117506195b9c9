"""The doors of the services: what they need from the outside, where more than one kind exists."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Protocol
from uuid import UUID

from celeriac.domain.agent import AgentSpec
from celeriac.domain.events import EventType
from celeriac.domain.execution import Message
from celeriac.domain.outcome import Completed
from celeriac.domain.task import Limits
from celeriac.domain.usage import ModelCall
from celeriac.kit.jsontypes import JsonObject


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


class RunContext(Protocol):
    """What a runner may do with the world besides its own work. Safe to use from the loop."""

    @property
    def workdir(self) -> Path:
        """A directory of this execution's own; made on first use."""
        ...

    @property
    def deadline(self) -> float:
        """The hard limit as `time.monotonic()` seconds."""
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

    async def charge(self, call: ModelCall) -> None:
        """Record a model call with its tokens, latency and cost."""
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

    async def run(self, job: Job, context: RunContext) -> Completed:
        """Do the work and return its result."""
        ...


class Runners(Protocol):
    """Finds the runner of an agent."""

    def get(self, agent: AgentSpec) -> Runner:
        """Return the runner; raises AgentMisconfiguredError where it isn't installed."""
        ...
