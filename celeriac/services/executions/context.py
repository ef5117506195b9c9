"""What a running agent may do: the `RunContext` of one attempt."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from uuid import UUID

import structlog

from celeriac.db.executions.leases import PendingWrites
from celeriac.domain.approvals import Answer, Question
from celeriac.domain.artifacts import ArtifactOwner
from celeriac.domain.cassettes import Cassette, Interaction
from celeriac.domain.errors import CassetteUnavailableError
from celeriac.domain.executions.events import EventType, NewEvent
from celeriac.domain.labels import Labels
from celeriac.domain.usage import CallEstimate, ModelCall, Reservation, dollars
from celeriac.domain.workflows.records import ResultsPage
from celeriac.kit.files import Folder
from celeriac.kit.json_types import JsonObject, JsonValue, storable, storable_text
from celeriac.services.approvals.ask import Questions
from celeriac.services.budgets.admission import Admission
from celeriac.services.budgets.messages import unheld
from celeriac.services.cassettes import CassetteStore
from celeriac.services.executions.attempt import Attempt
from celeriac.services.executions.attempt_labels import AttemptLabels
from celeriac.services.executions.steps import AttemptSteps, StepStore
from celeriac.services.files.working import WorkingFiles
from celeriac.services.ports import Job, LiveEvents, Runner, Transcripts
from celeriac.services.sessions import AttemptSession, SessionStore
from celeriac.services.time_limits import TimeLimits
from celeriac.traces.agents import NO_TRACE, AttemptTrace

logger = structlog.get_logger(__name__)

MAX_EVENT_CHARACTERS = 8_000_000
"""The limit of an event's data as JSON; results have the same limit."""

_TOOLS = frozenset({EventType.TOOL_CALL, EventType.TOOL_RESULT})
_OUTPUT = frozenset({EventType.MESSAGE, EventType.TOOL_CALL, EventType.TOOL_RESULT})


@dataclass(frozen=True, slots=True)
class AttemptServices:
    """The services that all attempts of a process share."""

    admission: Admission
    sessions: SessionStore
    questions: Questions
    cassettes: CassetteStore
    live: LiveEvents
    steps: StepStore
    files: WorkingFiles


class AttemptContext:
    """The `RunContext` of one attempt; see there for the contracts of its methods.

    Its methods may be called from any thread and any event loop; blocking work runs in threads.
    """

    def __init__(
        self,
        attempt: Attempt,
        job: Job,
        runner: Runner,
        services: AttemptServices,
        *,
        workdir: Path,
        correlation: Mapping[str, str],
        trace: AttemptTrace = NO_TRACE,
    ) -> None:
        """Serve `attempt`, which does `job` with `runner`. `workdir` is created on first use."""
        self.correlation = correlation
        self.trace = trace
        self._steps: AttemptSteps | None = None
        self._labels: AttemptLabels | None = None
        self._attempt = attempt
        self._lease = attempt.lease
        self._job = job
        self._runner = runner
        self._services = services
        self._workdir = workdir
        self._warned_unbounded = False
        self._session: AttemptSession | None = None

    @property
    def workdir(self) -> Path:
        """The execution's own directory."""
        self._attempt.has_workdir = True
        if not self._is_in_checkout:  # what is in there is the agent's, who may have put links
            self._workdir.mkdir(parents=True, exist_ok=True, mode=0o700)
        return self._workdir

    @property
    def _is_in_checkout(self) -> bool:
        repository = self._job.repository
        inner = None if repository is None else repository.path
        if inner is None:
            return False
        return self._workdir.parents[inner.count("/")].exists()

    @property
    def stored_steps(self) -> AttemptSteps:
        """The stored steps of the execution."""
        if self._steps is None:
            self._steps = AttemptSteps(self._services.steps, self._attempt, self._job)
        return self._steps

    @property
    def time_limits(self) -> TimeLimits:
        """The attempt's limits."""
        return self._attempt.time_limits

    def idempotency_key(self, step: str) -> str:
        """Return `execution_id:step`."""
        return f"{self._lease.execution_id}:{step}"

    async def emit(self, kind: EventType, data: JsonObject) -> None:
        """Add an event. Waits while too many are not stored.

        Raises TypeError for data that JSON can't hold, and for more than `MAX_EVENT_CHARACTERS`.
        """
        text = storable(data)
        if len(text) > MAX_EVENT_CHARACTERS:
            raise TypeError(
                f"an event of {len(text):,} characters of JSON; the limit is "
                f"{MAX_EVENT_CHARACTERS:,}. Store large data elsewhere and refer to it."
            )
        event = NewEvent(kind, text, time.monotonic())
        self._attempt.has_output |= kind in _OUTPUT
        if kind in _TOOLS:
            self.trace.tool_event(data, returned=kind is EventType.TOOL_RESULT)
        self._attempt.write(lambda pending: pending.events.append(event))
        await self._attempt.wait_for_room()

    def delta(self, data: JsonObject) -> None:
        """Publish a piece of streaming output."""
        self._services.live.delta(self._lease.execution_id, data)

    async def step_results(self, step: str, *, run_id: UUID | None, after: int) -> ResultsPage:
        """Return a page of the results of a step of the execution's run."""
        return await self.stored_steps.results_of_step(step, run_id=run_id, after=after)

    async def label(self, changes: Mapping[str, JsonValue]) -> Labels:
        """Change the labels of the execution, and return them."""
        if self._labels is None:
            self._labels = AttemptLabels(self._services.steps, self._attempt)
        return await self._labels.change(changes)

    async def progress(self, done: float, total: float | None = None, note: str = "") -> None:
        """Store how far the work is. Raises TypeError or ValueError for other types."""
        done, total = float(done), None if total is None else float(total)
        note = storable_text(note)
        data = storable({"done": done, "total": total, "note": note})
        event = NewEvent(EventType.PROGRESS, data, time.monotonic())

        def add(pending: PendingWrites) -> None:
            pending.progress = (done, total, note)
            pending.events.append(event)

        self._attempt.write(add)
        await self._attempt.wait_for_room()

    async def admit(self, call: CallEstimate) -> Reservation | None:
        """Admit a model call. A call that a cassette answers needs no admission."""
        self._attempt.check_lease()
        if self._replays:
            return None
        admitted = await self._services.admission.admit(
            self._lease, self._job, call, may_park=self._runner.resumable
        )
        if admitted is not None and admitted.free:
            await self._warn_unbounded(call.provider, call.model, known=True)
        return admitted

    async def release(self, reservation: Reservation) -> None:
        """Give back what was reserved for a call that was not made."""
        await self._services.admission.release(self._job, reservation)

    async def charge(self, call: ModelCall, reservation: Reservation | None = None) -> None:
        """Record a model call and its event, and charge it to the budgets."""
        made = time.monotonic()
        day: date | None = None
        if self._replays:
            call = call.as_replayed()
        reason = call.finish_reason
        call = replace(
            call,
            provider=storable_text(call.provider),
            model=storable_text(call.model),
            finish_reason=None if reason is None else storable_text(reason),
            made=made,
        )
        event = NewEvent(EventType.MODEL_CALL, _call_data(call), made)

        def add(pending: PendingWrites) -> None:
            pending.calls.append(replace(call, day=day))
            pending.events.append(event)

        try:
            if not self._replays:
                admission = self._services.admission
                day = await admission.charge(self._lease, self._job, call, reservation)
        finally:
            self._attempt.has_output = True
            self._attempt.write(add)  # the call was made, whatever the budgets say
        shared = self._job.options.tree
        budgets = (self._job.budget, None if shared is None else shared.budget)
        bounds_cost = any(each is not None and each.max_cost is not None for each in budgets)
        if bounds_cost and call.cost is None and call.booked is None:
            await self._warn_unbounded(call.provider, call.model, known=False)
        await self._attempt.wait_for_room()

    async def _warn_unbounded(self, provider: str, model: str, *, known: bool) -> None:
        """Warn once that no cost limit can hold this model."""
        if self._warned_unbounded:
            return
        self._warned_unbounded = True
        message = unheld(storable_text(provider), storable_text(model), known=known)
        data: JsonObject = {"level": "warning", "message": message, "source": "budget"}
        await self.emit(EventType.LOG, data)

    async def ask(self, question: Question) -> Answer:
        """Ask a person and wait for the answer."""
        self._attempt.check_lease()
        return await self._services.questions.ask(self._lease, question)

    async def answers(self) -> Mapping[str, Answer]:
        """Return the answers so far."""
        return await self._services.questions.answers(self._lease.execution_id)

    async def save_session(
        self,
        *,
        external_id: str | None = None,
        state: JsonValue = None,
        messages: Sequence[JsonValue] | None = None,
    ) -> UUID:
        """Store what a later attempt needs; create the session on first use."""
        self._attempt.expect_rows()
        if self._session is None:
            job = self._job
            self._session = AttemptSession(
                self._services.sessions,
                self._lease,
                runner=self._runner.name,
                given=job.session,
                forks=job.session is not None and job.forks,
            )
        return await self._session.save(external_id=external_id, state=state, messages=messages)

    def transcripts(self, session_id: UUID) -> Transcripts:
        """Return the conversation of a session, as the agent's own SDK writes it."""
        return self._services.sessions.transcripts(self._lease, session_id)

    async def session_files(
        self, session_id: UUID, directory: Path, *, copy_of: UUID | None = None
    ) -> None:
        """Restore the working directory of a session; it is saved at the end of the attempt."""
        files = self._services.files
        await files.threads.run(files.restore, session_id, directory, copy_of=copy_of)
        owner = ArtifactOwner(session_id, is_session=True)
        self._attempt.folders[owner] = Folder(directory.parent, directory.name)

    @property
    def _replays(self) -> bool:
        """Whether a cassette answers the model requests, so that no provider is called."""
        return self._job.options.cassette_id is not None

    async def cassette(self) -> Cassette:
        """Return the cassette to replay."""
        cassette_id = self._job.options.cassette_id
        if cassette_id is None:
            raise CassetteUnavailableError("The options of the execution name no cassette.")
        return await self._services.cassettes.load(cassette_id)

    async def record(self, interactions: Sequence[Interaction], *, complete: bool) -> bool:
        """Add to the execution's cassette."""
        self._attempt.check_lease()
        return await self._services.cassettes.add(
            self._lease, self._job, interactions, complete=complete
        )


def _call_data(call: ModelCall) -> str:
    """Return the data of a model call's event, as JSON."""
    return storable(
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
    )
