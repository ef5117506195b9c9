"""A run context in memory, for tests of agents and runners."""

import shutil
import stat
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar
from uuid import UUID, uuid4

from celeriac.domain.approvals import Answer, Question
from celeriac.domain.cassettes import Cassette, Header, Interaction
from celeriac.domain.errors import (
    AgentMisconfiguredError,
    CassetteUnavailableError,
    InvalidInputError,
)
from celeriac.domain.executions.events import EventType
from celeriac.domain.executions.steps import Child, NewChildren, NewStep, StoredStep
from celeriac.domain.labels import Labels, checked_changes, relabelled
from celeriac.domain.sessions import TranscriptKey
from celeriac.domain.tasks import Limits
from celeriac.domain.usage import CallEstimate, Clip, ModelCall, Reservation
from celeriac.domain.workflows.records import ResultsPage
from celeriac.kit.json_types import JsonObject, JsonValue, dumps, loads
from celeriac.services.time_limits import TimeLimits


def _copy_files(source: Path, target: Path) -> None:
    """Copy what a worker saves: files, directories and links."""

    def left_out(directory: str, names: list[str]) -> list[str]:
        kinds = {name: stat.S_IFMT(Path(directory, name).lstat().st_mode) for name in names}
        return [name for name, kind in kinds.items() if kind not in _SAVED]

    if source.is_dir():
        shutil.copytree(source, target, symlinks=True, dirs_exist_ok=True, ignore=left_out)


class MemoryTranscripts:
    """The conversation of a session, in memory; see `Transcripts` in the ports."""

    stored: ClassVar[dict[tuple[UUID, TranscriptKey], list[JsonValue]]] = {}

    def __init__(self, session_id: UUID) -> None:
        self._session_id = session_id

    async def append(self, key: TranscriptKey, entries: Sequence[JsonValue]) -> None:
        """Add entries."""
        self.stored.setdefault((self._session_id, key), []).extend(entries)

    async def load(self, key: TranscriptKey) -> list[JsonValue]:
        """Return all entries."""
        return self.stored.get((self._session_id, key), [])

    async def subpaths(self, key: TranscriptKey) -> list[str]:
        """Return the parts besides the main transcript."""
        mine = (each for owner, each in self.stored if owner == self._session_id and each.subpath)
        return [each.subpath for each in mine if replace(each, subpath="") == key]


_SAVED = frozenset({stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK})


class MemorySteps:
    """A `StoredSteps` in memory, for several attempts of one execution.

    Children have ended at once: `run_child` makes them from the task's name and the variables.
    """

    def __init__(self) -> None:
        self.stored: dict[int, StoredStep] = {}
        self.attempt = 1
        self.retry_count = 0
        self.run_child: Callable[[str, JsonObject], Child] | None = None
        self._children: dict[int, dict[int, Child]] = {}

    async def load(self) -> list[StoredStep]:
        """Return the stored steps."""
        return [self.stored[number] for number in sorted(self.stored)]

    async def result(self, number: int) -> JsonValue:
        """Return a result."""
        return self.stored[number].result

    async def store(self, step: NewStep) -> float | None:
        """Store a step."""
        self.stored[step.number] = StoredStep(
            number=step.number,
            path=step.path,
            name=step.name,
            kind=step.kind,
            status=step.status,
            attempt=self.attempt,
            retry_count=self.retry_count,
            result=None if step.result is None else loads(step.result),
            error=step.error,
            wake_seconds=step.wake_seconds,
            width=step.width,
        )
        return step.wake_seconds

    async def start(self, number: int, new: NewChildren, step: NewStep | None) -> None:
        """Run children with `run_child`."""
        if self.run_child is None:
            raise AgentMisconfiguredError(
                f"The agent runs the task {new.task!r}. Give run_agent or run_function `children`, "
                "which return the results of other tasks.",
                field="children",
            )
        if step is not None:
            await self.store(step)
        made = self._children.setdefault(number, {})
        for place, variables in zip(new.places, new.variables, strict=True):
            made[place] = self.run_child(new.task, variables)

    async def children(self, number: int) -> Mapping[int, Child]:
        """Return the children of a step."""
        return self._children.get(number, {})

    async def results(self, number: int, *, most_bytes: int) -> Mapping[int, Child] | None:
        """Return the children of a step, or None if their results have more bytes of JSON."""
        found = await self.children(number)
        size = sum(len(dumps(child.result)) for child in found.values())
        return found if size <= most_bytes else None


class MemoryRunContext:
    """A `RunContext` that records every call of a runner in its attributes."""

    def __init__(
        self, workdir: Path, *, hard_seconds: float = 60.0, execution_id: str = "execution"
    ) -> None:
        """Use `workdir`, made on first use. The hard limit counts from now."""
        self.time_limits = TimeLimits()
        self.time_limits.begin(Limits(soft_seconds=hard_seconds, hard_seconds=hard_seconds))
        self.correlation: Mapping[str, str] = {"execution_id": execution_id}
        self.events: list[tuple[EventType, JsonObject]] = []
        self.deltas: list[JsonObject] = []
        self.planned: list[CallEstimate] = []
        self.denial: Exception | None = None
        """Raised by `admit`."""
        self.clip: Clip | None = None
        """The limit for answers in the reservations that `admit` returns."""
        self.calls: list[ModelCall] = []
        self.reservations: list[Reservation | None] = []
        self.released: list[Reservation] = []
        self.questions: list[Question] = []
        self.given: dict[str, Answer] = {}
        """Answers by the questions' keys."""
        self.labels: dict[str, str] = {}
        self.session_id = uuid4()
        self.external_id: str | None = None
        self.state: JsonValue = None
        self.messages: tuple[JsonValue, ...] = ()
        self.steps: list[tuple[float, float | None, str]] = []
        self.played: Cassette | None = None
        """The cassette to replay."""
        self.recorded = Cassette(Header(celeriac_cassette=1))
        self.stored_steps = MemorySteps()
        self.results_of_steps: dict[str, list[JsonValue]] = {}
        """Results by the steps of the workflow's run."""
        self._workdir = workdir
        self._execution_id = execution_id

    @property
    def workdir(self) -> Path:
        """The directory of the execution; made if it does not exist."""
        self._workdir.mkdir(parents=True, exist_ok=True)
        return self._workdir

    async def step_results(self, step: str, *, run_id: UUID | None, after: int) -> ResultsPage:
        """Return the results in `results_of_steps`, two to a page."""
        if run_id is not None or step not in self.results_of_steps:
            raise InvalidInputError(f"The run has no step {step!r}.", field="step")
        page = self.results_of_steps[step][after + 1 : after + 3]
        return ResultsPage(page, after + len(page) if page else None)

    def idempotency_key(self, step: str) -> str:
        """Return `execution_id:step`."""
        return f"{self._execution_id}:{step}"

    async def emit(self, kind: EventType, data: JsonObject) -> None:
        """Record an event."""
        self.events.append((kind, data))

    def delta(self, data: JsonObject) -> None:
        """Record a piece of streaming output."""
        self.deltas.append(data)

    async def admit(self, call: CallEstimate) -> Reservation | None:
        """Record the estimate; raise `denial` if it is set."""
        self.planned.append(call)
        if self.denial is not None:
            raise self.denial
        return None if self.clip is None else Reservation(uuid4(), clip=self.clip)

    async def charge(self, call: ModelCall, reservation: Reservation | None = None) -> None:
        """Record a model call and its reservation."""
        self.reservations.append(reservation)
        self.calls.append(call)

    async def release(self, reservation: Reservation) -> None:
        """Record the reservation of a call that was not made."""
        self.released.append(reservation)

    async def ask(self, question: Question) -> Answer:
        """Record a question and return its answer from `given`; raises KeyError without one."""
        self.questions.append(question)
        return self.given[question.key]

    async def answers(self) -> Mapping[str, Answer]:
        """Return `given`."""
        return self.given

    def transcripts(self, session_id: UUID) -> MemoryTranscripts:
        """Return the conversation of a session, of this and other contexts of the process."""
        return MemoryTranscripts(session_id)

    async def session_files(
        self, session_id: UUID, directory: Path, *, copy_of: UUID | None = None
    ) -> None:
        """Keep the directory as it is, or copy the one of another session beside it."""
        del session_id
        if copy_of is not None:
            _copy_files(directory.parent.parent / str(copy_of) / directory.name, directory)

    async def save_session(
        self,
        *,
        external_id: str | None = None,
        state: JsonValue = None,
        messages: Sequence[JsonValue] | None = None,
    ) -> UUID:
        """Record the session's data; None keeps the earlier value."""
        self.external_id = external_id or self.external_id
        self.state = self.state if state is None else state
        self.messages = self.messages if messages is None else tuple(messages)
        return self.session_id

    async def cassette(self) -> Cassette:
        """Return `played`; raises CassetteUnavailableError if it is not set."""
        if self.played is None:
            raise CassetteUnavailableError("No cassette is set for this run.")
        return self.played

    async def record(self, interactions: Sequence[Interaction], *, complete: bool) -> bool:
        """Add to `recorded`, within the size limits of cassettes."""
        self.recorded = self.recorded.extended(interactions, complete=complete)
        return self.recorded.header.complete

    async def label(self, changes: Mapping[str, JsonValue]) -> Labels:
        """Change `labels`."""
        self.labels = relabelled(self.labels, checked_changes(changes))
        return self.labels

    async def progress(self, done: float, total: float | None = None, note: str = "") -> None:
        """Record the progress."""
        self.steps.append((done, total, note))
