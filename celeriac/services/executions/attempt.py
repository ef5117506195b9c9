"""A running attempt.

Its events and usage, its services, and the registry of a process's attempts.
"""

import asyncio
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import date
from enum import StrEnum
from pathlib import Path
from uuid import UUID

import structlog

from celeriac.db.executions.leases import PendingWrites
from celeriac.domain.approvals import Answer, Question
from celeriac.domain.cassettes import Cassette, Interaction
from celeriac.domain.errors import CassetteUnavailableError, LeaseLostError
from celeriac.domain.executions.events import EventType, NewEvent
from celeriac.domain.executions.model import Lease
from celeriac.domain.usage import CallEstimate, ModelCall, Reservation, dollars
from celeriac.kit.files import remove_if_empty
from celeriac.kit.ids import uuid7
from celeriac.kit.json_types import JsonObject, JsonValue, storable, storable_text
from celeriac.logs import Step
from celeriac.services.approvals.ask import Questions
from celeriac.services.budgets.admission import Admission
from celeriac.services.budgets.manage import unheld
from celeriac.services.cassettes import CassetteStore
from celeriac.services.executions.time_limits import TimeLimits
from celeriac.services.ports import Job, Runner
from celeriac.services.sessions import SessionStore

logger = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class AttemptServices:
    """The services that all attempts of a process share."""

    admission: Admission
    conversations: SessionStore
    questions: Questions
    tapes: CassetteStore


class BoundServices:
    """Those services, for one attempt; called on any event loop, working in threads."""

    def __init__(self, backing: AttemptServices, lease: Lease, job: Job, runner: Runner) -> None:
        """Serve the attempt of `lease`, which does `job` with `runner`."""
        self._backing = backing
        self._lease = lease
        self._job = job
        self._runner = runner
        self._parent_id = job.session.id if job.session and job.forks else None
        self._session_id = job.session.id if job.session and not job.forks else None
        self._new_session_id = uuid7()  # the same for all who save at once: it is made once
        self._saving = threading.Lock()

    @property
    def plays_cassette(self) -> bool:
        """Whether model requests are answered from a cassette: nothing is asked of a provider."""
        return self._job.options.cassette_id is not None

    async def admit(self, call: CallEstimate) -> Reservation | None:
        """Ask leave for a model call; what a cassette answers needs none."""
        if self.plays_cassette:
            return None
        return await self._backing.admission.admit(
            self._lease, self._job, call, may_park=self._runner.resumable
        )

    @property
    def bounds_money(self) -> bool:
        """Whether the execution's own budget, or its task's for each, bounds money."""
        own = self._job.budget
        return own is not None and own.max_cost is not None

    async def charge(self, call: ModelCall, ticket: Reservation | None) -> date | None:
        """Put what a call used in the place of what was reserved for it; see `Admission.charge`."""
        if self.plays_cassette:
            return None
        return await self._backing.admission.charge(self._lease, self._job, call, ticket)

    async def release(self, ticket: Reservation) -> None:
        """Give back what was reserved for a call that came to nothing."""
        await self._backing.admission.release(self._job, ticket)

    async def ask(self, question: Question) -> Answer:
        """Ask a person and wait for the answer."""
        return await self._backing.questions.ask(self._lease, question)

    async def answers(self) -> Mapping[str, Answer]:
        """Return the answers there are."""
        return await self._backing.questions.answers(self._lease.execution_id)

    async def cassette(self) -> Cassette:
        """Return the cassette to play."""
        cassette_id = self._job.options.cassette_id
        if cassette_id is None:
            raise CassetteUnavailableError("The options of the execution name no cassette.")
        return await self._backing.tapes.load(cassette_id)

    async def record(self, interactions: Sequence[Interaction], *, complete: bool) -> bool:
        """Add to the execution's cassette."""
        return await self._backing.tapes.add(
            self._lease, self._job, interactions, complete=complete
        )

    async def save_session(self, *, external_id: str | None, state: JsonValue) -> UUID:
        """Store what is needed to go on; make the session on first use."""
        conversations = self._backing.conversations
        if self._session_id is None:
            await conversations.begin(
                self._lease,
                self._new_session_id,
                runner=self._runner.name,
                parent_id=self._parent_id,
            )
            with self._saving:
                fresh, self._session_id = self._session_id is None, self._new_session_id
            if fresh:
                logger.info(Step.SESSION_CREATED, session_id=self._session_id)
        if external_id is not None or state is not None:
            await conversations.save(
                self._lease, self._session_id, external_id=external_id, state=state
            )
        return self._session_id


MAX_EVENT_CHARACTERS = 8_000_000
"""Of an event's data as JSON; results have the same limit."""

_MAX_UNSTORED = 1000
"""Events that may wait to be stored before their agent is slowed down."""

_PATIENCE = 0.05


_SPEECH = frozenset({EventType.MESSAGE, EventType.TOOL_CALL, EventType.TOOL_RESULT})


class StopReason(StrEnum):
    """Why a running attempt is stopped from outside; the first reason given holds."""

    CANCELLED = "cancelled"
    LEASE_LOST = "lease_lost"
    SHUTDOWN = "shutdown"
    HARD_LIMIT = "hard_limit"


class Attempt:
    """The `RunContext` of one attempt; its methods may be called from any thread.

    What the agent tells is gathered in `notes` and stored by the process's `EventWriter`.
    """

    def __init__(
        self,
        lease: Lease,
        *,
        workdir: Path,
        correlation: Mapping[str, str],
        on_delta: Callable[[UUID, JsonObject], None],
    ) -> None:
        """Stand for `lease`; what the attempt is to do is not known yet."""
        self.lease = lease
        self.time_limits = TimeLimits()
        """They begin once the plan is known."""
        self.correlation = correlation
        self.stop_reason: StopReason | None = None
        self.told = False
        self.spoke = False
        """Whether there was a message, a tool call or a model call: something to report."""
        self.has_session = False
        """Whether a session was made or written to; said before it is certain."""
        self._notes = PendingWrites(lease)
        self._batch: PendingWrites | None = None
        """What was sent and is not known to be stored: sent again as it is, before all else."""
        self._batches = 0
        self._closed = False
        self._said_unheld = False
        self._workdir = workdir
        self._has_workdir = False
        self._on_delta = on_delta
        self._lock = threading.Lock()
        self._cancel: Callable[[], object] | None = None
        self._backed: BoundServices

    @property
    def workdir(self) -> Path:
        """The execution's own directory; made on first use."""
        self._has_workdir = True
        self._workdir.mkdir(parents=True, exist_ok=True, mode=0o700)
        return self._workdir

    def tidy(self) -> None:
        """Remove the execution's own directory, now that it has ended, where nothing is in it."""
        if self._has_workdir:
            remove_if_empty(self._workdir)

    def idempotency_key(self, step: str) -> str:
        """Return `execution_id:step`, the same in every attempt."""
        return f"{self.lease.execution_id}:{step}"

    async def emit(self, kind: EventType, data: JsonObject) -> None:
        """Add an event; waits while too many are not stored yet.

        Raises TypeError, here and not later, for data that JSON can't hold, and for more than
        `MAX_EVENT_CHARACTERS` of it.
        """
        text = storable(data)
        if len(text) > MAX_EVENT_CHARACTERS:
            raise TypeError(
                f"an event of {len(text):,} characters of JSON; the limit is "
                f"{MAX_EVENT_CHARACTERS:,}. Store large data elsewhere and say where it is."
            )
        event = NewEvent(kind, text, time.monotonic())
        self.spoke |= kind in _SPEECH
        self._note(lambda notes: notes.events.append(event))
        await self._wait_for_room()

    def delta(self, data: JsonObject) -> None:
        """Show streaming output to those who watch."""
        self._on_delta(self.lease.execution_id, data)

    def back(self, backing: AttemptServices, job: Job, runner: Runner) -> None:
        """Give the attempt its services, before its runner is started."""
        self._backed = BoundServices(backing, self.lease, job, runner)

    async def admit(self, call: CallEstimate) -> Reservation | None:
        """Ask leave for a model call; see `RunContext.admit`."""
        self._check_lease()
        ticket = await self._backed.admit(call)
        if ticket is not None and ticket.free:
            await self._say_unheld(call.provider, call.model, known=True)
        return ticket

    async def _say_unheld(self, provider: str, model: str, *, known: bool) -> None:
        """Warn once that no budget of money holds a model."""
        if self._said_unheld:
            return
        self._said_unheld = True
        message = unheld(storable_text(provider), storable_text(model), known=known)
        data: JsonObject = {"level": "warning", "message": message, "source": "budget"}
        await self.emit(EventType.LOG, data)

    async def release(self, ticket: Reservation) -> None:
        """Give back leave for a model call; see `RunContext.release`."""
        await self._backed.release(ticket)

    async def ask(self, question: Question) -> Answer:
        """Ask a person and wait; see `RunContext.ask`."""
        self._check_lease()
        return await self._backed.ask(question)

    async def answers(self) -> Mapping[str, Answer]:
        """Return the answers there are; see `RunContext.answers`."""
        return await self._backed.answers()

    async def save_session(
        self, *, external_id: str | None = None, state: JsonValue = None
    ) -> UUID:
        """Store what is needed to go on; see `RunContext.save_session`."""
        self._check_lease()
        self.has_session = True
        return await self._backed.save_session(external_id=external_id, state=state)

    async def charge(self, call: ModelCall, ticket: Reservation | None = None) -> None:
        """Record a model call and its event, and book it; see `RunContext.charge`."""
        made = time.monotonic()
        if self._backed.plays_cassette:
            call = call.as_replayed()
        reason = call.finish_reason
        call = replace(
            call,
            provider=storable_text(call.provider),
            model=storable_text(call.model),
            finish_reason=None if reason is None else storable_text(reason),
        )
        event = NewEvent(
            EventType.MODEL_CALL,
            storable(
                {
                    "provider": call.provider,
                    "model": call.model,
                    "input_tokens": call.input_tokens,
                    "output_tokens": call.output_tokens,
                    "cached_tokens": call.cached_tokens,
                    "latency_ms": call.latency_ms,
                    "finish_reason": call.finish_reason,
                    "cost": None if call.cost is None else dollars(call.cost),
                }
            ),
            made,
        )
        day: date | None = None

        def add(notes: PendingWrites) -> None:
            notes.calls.append(replace(call, made=made, day=day))
            notes.events.append(event)

        try:
            day = await self._backed.charge(call, ticket)
        finally:
            self.spoke = True
            self._note(add)  # it was made, whatever the budgets say of it
        if call.cost is None and call.booked is None and self._backed.bounds_money:
            await self._say_unheld(call.provider, call.model, known=False)
        await self._wait_for_room()

    async def cassette(self) -> Cassette:
        """Return the cassette to play; see `RunContext.cassette`."""
        return await self._backed.cassette()

    async def record(self, interactions: Sequence[Interaction], *, complete: bool) -> bool:
        """Add to the execution's cassette; see `RunContext.record`."""
        self._check_lease()
        return await self._backed.record(interactions, complete=complete)

    async def progress(self, done: float, total: float | None = None, note: str = "") -> None:
        """Say how far the work is. Raises TypeError or ValueError, here and not later."""
        done, total, note = (
            float(done),
            None if total is None else float(total),
            storable_text(note),
        )
        data = storable({"done": done, "total": total, "note": note})
        event = NewEvent(EventType.PROGRESS, data, time.monotonic())

        def add(notes: PendingWrites) -> None:
            notes.progress = (done, total, note)
            notes.events.append(event)

        self._note(add)
        await self._wait_for_room()

    def next_batch(self) -> PendingWrites | None:
        """Return the batch that is to be stored now, or None.

        It is the same until `batch_stored` or `batch_refused` is called, so that a try whose answer
        got lost can be told from one that stored nothing.
        """
        with self._lock:
            return None if self._closed else self._next_batch()

    def batch_stored(self) -> None:
        """Go on with the next batch."""
        with self._lock:
            self._batch = None
            self._batches += 1

    def batch_refused(self, instead: PendingWrites | None = None) -> None:
        """Forget a batch that the database refuses, or send `instead` under the same number."""
        with self._lock:
            self._batch = instead

    def last_batches(self) -> list[PendingWrites]:
        """Return all that is not known to be stored: at most two batches. No others follow."""
        batches = []
        with self._lock:
            self._closed = True
            while (batch := self._next_batch()) is not None:
                batches.append(batch)
                self._batch = None
                self._batches += 1
        return batches

    def _next_batch(self) -> PendingWrites | None:
        if self._batch is None and self._notes:
            self._batch, self._notes = self._notes, PendingWrites(self.lease)
            self._batch.number = self._batches + 1
        return self._batch

    def on_stop(self, cancel: Callable[[], object]) -> None:
        """Name what stops the running agent; called at once where a stop was asked for before."""
        with self._lock:
            self._cancel = cancel
            stopped = self.stop_reason is not None
        if stopped:
            cancel()

    def stop(self, reason: StopReason) -> bool:
        """Stop the agent for `reason`; later reasons are ignored, but a lost lease beats all.

        The agent is told once, however often it is asked: a second cancellation would interrupt
        its winding up. Returns whether it was told now.
        """
        with self._lock:
            first = self.stop_reason is None
            if first or reason is StopReason.LEASE_LOST:
                self.stop_reason = reason
            cancel = self._cancel
        if first and cancel is not None:
            cancel()
        return first

    async def _wait_for_room(self) -> None:
        """Slow down an agent that tells more than can be stored."""
        while len(self._notes.events) >= _MAX_UNSTORED:
            self._check_lease()
            await asyncio.sleep(_PATIENCE)

    def _note(self, add: Callable[[PendingWrites], None]) -> None:
        self._check_lease()
        self.told = True
        with self._lock:
            add(self._notes)

    def _check_lease(self) -> None:
        if self.stop_reason is StopReason.LEASE_LOST:
            raise LeaseLostError("This worker no longer owns the attempt.")


class AttemptRegistry:
    """A register by execution; the heartbeat, the event writer and the control channel read it."""

    def __init__(self) -> None:
        """Start empty."""
        self._lock = threading.Lock()
        self._attempts: dict[UUID, Attempt] = {}

    @contextmanager
    def running(self, attempt: Attempt) -> Iterator[None]:
        """List `attempt` while the block runs.

        Should an earlier attempt of the execution still run here, it is one whose lease was lost
        without our knowing: it is told so, and makes way.
        """
        key = attempt.lease.execution_id
        with self._lock:
            earlier = self._attempts.get(key)
            self._attempts[key] = attempt
        if earlier is not None:
            earlier.stop(StopReason.LEASE_LOST)
        try:
            yield
        finally:
            with self._lock:
                if self._attempts.get(key) is attempt:
                    del self._attempts[key]

    def all(self) -> list[Attempt]:
        """Return the attempts that are running now."""
        with self._lock:
            return list(self._attempts.values())

    def among(self, execution_ids: Iterable[UUID]) -> list[UUID]:
        """Return those of the executions that run here."""
        with self._lock:
            return [key for key in execution_ids if key in self._attempts]

    def stand_still(self, lease: Lease) -> Callable[[], None]:
        """Stop the time of the attempt with `lease`; return what lets it go on."""
        with self._lock:
            attempt = self._attempts.get(lease.execution_id)
        if attempt is None or attempt.lease != lease:
            return lambda: None
        return attempt.time_limits.stand_still()

    def stop(self, execution_ids: Iterable[UUID], reason: StopReason) -> None:
        """Stop those of the executions that run here."""
        with self._lock:
            found = [self._attempts[key] for key in execution_ids if key in self._attempts]
        for attempt in found:
            attempt.stop(reason)

    def stop_all(self, reason: StopReason) -> int:
        """Stop everything that runs here; return how many attempts were not told before."""
        return sum(attempt.stop(reason) for attempt in self.all())

    def __len__(self) -> int:
        """How many attempts run now."""
        return len(self._attempts)
