"""The ports of the services in memory: for tests of Celeriac, and of packages built on it.

They keep the promises that the ports make (one suite of tests holds them and the real ones to
that) and show what came through. All are safe to share between threads.
"""

import threading
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import ClassVar
from uuid import UUID, uuid4

from celeriac.domain.agents import AgentSpec, RunnerName
from celeriac.domain.approvals import Answer, Question
from celeriac.domain.cassettes import Cassette, Header, Interaction
from celeriac.domain.errors import (
    AgentMisconfiguredError,
    BrokerUnavailableError,
    CassetteUnavailableError,
)
from celeriac.domain.executions.events import EventType
from celeriac.domain.executions.model import Completed, Parked
from celeriac.domain.tasks import Limits
from celeriac.domain.usage import CallEstimate, Clip, ModelCall, Reservation
from celeriac.kit.json_types import JsonObject, JsonValue
from celeriac.services.executions.time_limits import TimeLimits
from celeriac.services.ports import Envelope, Job, RunContext, Runner

_PRIORITIES = 4


class MemoryTaskQueue:
    """A `TaskQueue`: the more urgent first, then the older. `away` makes it unreachable."""

    def __init__(self) -> None:
        self.away = False
        self._lock = threading.Lock()
        self._waiting: dict[str, tuple[deque[Envelope], ...]] = defaultdict(
            lambda: tuple(deque() for _ in range(_PRIORITIES))
        )

    def send(self, envelopes: Sequence[Envelope]) -> None:
        """Take all `envelopes`; see `TaskQueue.send`."""
        self._check()
        with self._lock:
            for envelope in envelopes:
                self._waiting[envelope.queue][envelope.priority].append(envelope)

    def depth(self, queue: str) -> int:
        """Return how many wait in `queue`."""
        self._check()
        with self._lock:
            return sum(len(line) for line in self._waiting[queue])

    def take(self, queue: str) -> Envelope | None:
        """Return the next of `queue` as a worker would get it; None where nothing waits."""
        self._check()
        with self._lock:
            for line in reversed(self._waiting[queue]):
                if line:
                    return line.popleft()
        return None

    def _check(self) -> None:
        if self.away:
            raise BrokerUnavailableError("The broker in memory was told to be away.")


class MemoryLiveEvents:
    """A `LiveEvents` that keeps what it is told; workers hear of cancellations at once."""

    def __init__(self) -> None:
        self.changes: list[UUID] = []
        self.deltas: list[tuple[UUID, JsonObject]] = []
        self._workers: list[Callable[[list[UUID]], None]] = []

    def changed(self, execution_ids: Sequence[UUID]) -> None:
        """Keep that the executions have new events."""
        self.changes.extend(execution_ids)

    def delta(self, execution_id: UUID, data: JsonObject) -> None:
        """Keep a piece of streaming output."""
        self.deltas.append((execution_id, data))

    def cancel(self, execution_ids: Sequence[UUID]) -> None:
        """Tell those who listen to stop these executions."""
        if execution_ids:
            for on_cancel in list(self._workers):
                on_cancel(list(execution_ids))

    def listen(self, on_cancel: Callable[[list[UUID]], None]) -> None:
        """Call back with the executions that are to be stopped, as a worker is."""
        self._workers.append(on_cancel)


class MemoryRunContext:
    """A `RunContext` that keeps what a runner tells, to be looked at afterwards."""

    def __init__(
        self, workdir: Path, *, hard_seconds: float = 60.0, execution_id: str = "execution"
    ) -> None:
        """Stand in `workdir`, which is made on first use; the hard limit counts from now."""
        self.time_limits = TimeLimits()
        self.time_limits.begin(Limits(soft_seconds=hard_seconds, hard_seconds=hard_seconds))
        self.correlation: Mapping[str, str] = {"execution_id": execution_id}
        self.events: list[tuple[EventType, JsonObject]] = []
        self.deltas: list[JsonObject] = []
        self.planned: list[CallEstimate] = []
        self.denial: Exception | None = None
        self.clip: Clip | None = None
        """The limit that budgets set for answers."""
        self.calls: list[ModelCall] = []
        self.tickets: list[Reservation | None] = []
        self.released: list[Reservation] = []
        self.questions: list[Question] = []
        self.given: dict[str, Answer] = {}
        self.session_id = uuid4()
        self.external_id: str | None = None
        self.state: JsonValue = None
        self.steps: list[tuple[float, float | None, str]] = []
        self.played: Cassette | None = None
        self.recorded = Cassette(Header(celeriac_cassette=1))
        self._workdir = workdir
        self._execution_id = execution_id

    @property
    def workdir(self) -> Path:
        """The directory, made if need be."""
        self._workdir.mkdir(parents=True, exist_ok=True)
        return self._workdir

    def idempotency_key(self, step: str) -> str:
        """Return `execution_id:step`."""
        return f"{self._execution_id}:{step}"

    async def emit(self, kind: EventType, data: JsonObject) -> None:
        """Keep an event."""
        self.events.append((kind, data))

    def delta(self, data: JsonObject) -> None:
        """Keep a piece of streaming output."""
        self.deltas.append(data)

    async def admit(self, call: CallEstimate) -> Reservation | None:
        """Keep what was asked for; raise `denial` where one is set."""
        self.planned.append(call)
        if self.denial is not None:
            raise self.denial
        return None if self.clip is None else Reservation(uuid4(), clip=self.clip)

    async def charge(self, call: ModelCall, ticket: Reservation | None = None) -> None:
        """Keep a model call, and the ticket that it had."""
        self.tickets.append(ticket)
        self.calls.append(call)

    async def release(self, ticket: Reservation) -> None:
        """Keep the ticket of a call that came to nothing."""
        self.released.append(ticket)

    async def ask(self, question: Question) -> Answer:
        """Keep a question; return its answer in `given`, which must be there."""
        self.questions.append(question)
        return self.given[question.key]

    async def answers(self) -> Mapping[str, Answer]:
        """Return `given`."""
        return self.given

    async def save_session(
        self, *, external_id: str | None = None, state: JsonValue = None
    ) -> UUID:
        """Keep what is needed to go on."""
        self.external_id = external_id or self.external_id
        self.state = self.state if state is None else state
        return self.session_id

    async def cassette(self) -> Cassette:
        """Return `played`, which must be set."""
        if self.played is None:
            raise CassetteUnavailableError("This context in memory was given no cassette.")
        return self.played

    async def record(self, interactions: Sequence[Interaction], *, complete: bool) -> bool:
        """Keep what was recorded, within the limits of cassettes."""
        self.recorded = self.recorded.extended(interactions, complete=complete)
        return self.recorded.header.complete

    async def progress(self, done: float, total: float | None = None, note: str = "") -> None:
        """Keep how far the work is."""
        self.steps.append((done, total, note))


class MemoryRunner:
    """A `Runner` of any kind of agent: awaits a function and returns its value."""

    name: ClassVar[str] = "memory"
    resumable: ClassVar[bool] = True
    runs_user_code: ClassVar[bool] = True

    def __init__(self, work: Callable[[Job, RunContext], Awaitable[JsonValue | Parked]]) -> None:
        """Do `work` for each job."""
        self._work = work

    async def run(self, job: Job, context: RunContext) -> Completed | Parked:
        """Do the work; a `Parked` that it returns parks the attempt."""
        done = await self._work(job, context)
        return done if isinstance(done, Parked) else Completed(done)


class MemoryRunners:
    """A `Runners` of given runners by kind of agent."""

    def __init__(self, runners: Mapping[RunnerName, Runner]) -> None:
        """Know `runners` and no others."""
        self._runners = dict(runners)

    def get(self, agent: AgentSpec) -> Runner:
        """Return the runner of `agent`; raises AgentMisconfiguredError where there is none."""
        try:
            return self._runners[agent.runner]
        except KeyError:
            raise AgentMisconfiguredError(
                f"There is no runner {agent.runner.value} here.", field="runner"
            ) from None
