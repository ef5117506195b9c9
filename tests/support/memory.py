"""The ports of the services in memory.

`tests/integration/adapters` runs the same tests on them and on the real adapters. All are safe to
share between threads.
"""

import threading
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import ClassVar
from uuid import UUID

from celeriac.domain.agents import AgentSpec, RunnerName
from celeriac.domain.errors import (
    AgentMisconfiguredError,
    BrokerUnavailableError,
)
from celeriac.domain.executions.model import Completed, Parked, QueuedMessage
from celeriac.kit.json_types import JsonObject, JsonValue
from celeriac.services.ports import Job, RunContext, Runner

_PRIORITIES = 4


class MemoryTaskQueue:
    """A `TaskQueue`: the more urgent first, then the older. `away` makes it unreachable."""

    def __init__(self) -> None:
        self.away = False
        self._lock = threading.Lock()
        self._waiting: dict[str, tuple[deque[QueuedMessage], ...]] = defaultdict(
            lambda: tuple(deque() for _ in range(_PRIORITIES))
        )

    def send(self, envelopes: Sequence[QueuedMessage]) -> None:
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

    def take(self, queue: str) -> QueuedMessage | None:
        """Return the next of `queue` as a worker would get it; None where nothing waits."""
        self._check()
        with self._lock:
            for line in reversed(self._waiting[queue]):
                if line:
                    return line.popleft()
        return None

    def _check(self) -> None:
        if self.away:
            raise BrokerUnavailableError("The broker in memory is set to be unreachable.")


class MemoryLiveEvents:
    """A `LiveEvents` that records its calls; workers get cancellations at once."""

    def __init__(self) -> None:
        self.changes: list[UUID] = []
        self.deltas: list[tuple[UUID, JsonObject]] = []
        self._workers: list[Callable[[list[UUID]], None]] = []

    def changed(self, execution_ids: Sequence[UUID]) -> None:
        """Record that the executions have new events."""
        self.changes.extend(execution_ids)

    def delta(self, execution_id: UUID, data: JsonObject) -> None:
        """Record a piece of streaming output."""
        self.deltas.append((execution_id, data))

    def cancel(self, execution_ids: Sequence[UUID]) -> None:
        """Pass the executions to the listeners."""
        if execution_ids:
            for on_cancel in list(self._workers):
                on_cancel(list(execution_ids))

    def listen(self, on_cancel: Callable[[list[UUID]], None]) -> None:
        """Call `on_cancel` with cancelled executions, as in a worker."""
        self._workers.append(on_cancel)


class MemoryRunner:
    """A `Runner` of any kind of agent: awaits a function and returns its value."""

    name: ClassVar[str] = "memory"
    resumable: ClassVar[bool] = True
    runs_user_code: ClassVar[bool] = True

    def __init__(
        self,
        work: Callable[[Job, RunContext], Awaitable[JsonValue | Parked]],
        *,
        only_waits: bool = True,
    ) -> None:
        """Do `work` for each job."""
        self._work = work
        self._only_waits = only_waits

    def only_waits(self, agent: AgentSpec) -> bool:
        """Whether it was made for attempts that need no slot."""
        del agent
        return self._only_waits

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
