"""Masks the secrets of an attempt in what is stored of it: events, steps, sessions and its end."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TypeVar
from uuid import UUID

from celeriac.domain.approvals import Answer, Question
from celeriac.domain.cassettes import Interaction
from celeriac.domain.errors import PermanentError, ResultNotStorableError
from celeriac.domain.executions.events import EventType
from celeriac.domain.executions.model import (
    Completed,
    Failed,
    Failure,
    HandedBack,
    Outcome,
    Parked,
    Retry,
)
from celeriac.domain.executions.steps import NewChildren, NewStep
from celeriac.domain.labels import Labels
from celeriac.domain.sessions import TranscriptKey
from celeriac.domain.usage import CallEstimate, ModelCall, Reservation
from celeriac.kit.json_types import JsonObject, JsonValue, dumps, loads, storable
from celeriac.logs.masks import Masker
from celeriac.services.executions.context import AttemptContext
from celeriac.services.executions.raised import describe
from celeriac.services.executions.steps import AttemptSteps
from celeriac.services.ports import Transcripts

_Call = TypeVar("_Call", CallEstimate, ModelCall)


def mask_failure(masker: Masker, failure: Failure) -> Failure:
    """Return a failure with the values masked in its message, traceback and other details."""
    details: JsonObject = masker.value(failure.details)
    return Failure(masker.text(failure.code), masker.text(failure.message), details)


def mask_outcome(masker: Masker, outcome: Outcome | None, *, attempt: int) -> Outcome | None:
    """Return an outcome as it may be stored."""
    match outcome:
        case Completed(result):
            try:
                return replace(outcome, result=masker.value(loads(storable(result))))
            except TypeError as error:
                refused = ResultNotStorableError(f"The result can't be stored: {error}")
                return Failed(mask_failure(masker, describe(refused, attempt=attempt).failure))
        case Retry(failure) | Failed(failure):
            return replace(outcome, failure=mask_failure(masker, failure))
        case HandedBack(Failure() as failure):
            return replace(outcome, failure=mask_failure(masker, failure))
        case Parked():
            questions = tuple(_question(masker, each) for each in outcome.questions)
            return replace(outcome, note=masker.text(outcome.note), questions=questions)
    return outcome


def _question(masker: Masker, question: Question) -> Question:
    return replace(
        question,
        key=masker.text(question.key),
        title=masker.text(question.title),
        tool=None if question.tool is None else masker.text(question.tool),
        arguments=masker.value(question.arguments),
        schema=None if question.schema is None else masker.value(question.schema),
        default=masker.value(question.default),
    )


class MaskedSteps(AttemptSteps):
    """Stores steps, and what they start, with the values masked.

    Raises PermanentError for a step whose name has a value in it.
    """

    @property
    def masker(self) -> Masker:
        """Masks what the attempt was given."""
        masker = self._attempt.masker
        assert masker is not None  # see `AgentRuns.start`
        return masker

    async def store(self, step: NewStep) -> float | None:
        """Store a step; its result is masked."""
        return await super().store(self._masked(step))

    async def start(self, number: int, new: NewChildren, step: NewStep | None) -> None:
        """Start children; their variables are masked."""
        variables = [self.masker.value(each) for each in new.variables]
        masked = None if step is None else self._masked(step)
        await super().start(number, replace(new, variables=variables), masked)

    def _masked(self, step: NewStep) -> NewStep:
        masker = self.masker
        if masker.text(step.name) != step.name:
            raise PermanentError(
                "The name of a step has the value of a secret in it. Names are stored, and later "
                "attempts compare them: choose another one."
            )
        return replace(
            step,
            result=None if step.result is None else dumps(masker.value(loads(step.result))),
            error=None if step.error is None else masker.value(step.error),
        )


class MaskedTranscripts:
    """The conversation of a session, whose entries are masked before they are stored."""

    def __init__(self, transcripts: Transcripts, masker: Masker) -> None:
        self._transcripts = transcripts
        self._masker = masker

    async def append(self, key: TranscriptKey, entries: Sequence[JsonValue]) -> None:
        """Add entries; they are masked."""
        await self._transcripts.append(key, self._masker.value(list(entries)))

    async def load(self, key: TranscriptKey) -> list[JsonValue]:
        """Return all entries."""
        return await self._transcripts.load(key)

    async def subpaths(self, key: TranscriptKey) -> list[str]:
        """Return the parts besides the main transcript."""
        return await self._transcripts.subpaths(key)


class MaskedContext(AttemptContext):
    """The `RunContext` of an attempt that was given secrets."""

    @property
    def masker(self) -> Masker:
        """Masks what the attempt was given."""
        masker = self._attempt.masker
        assert masker is not None  # see `AgentRuns.start`
        return masker

    async def emit(self, kind: EventType, data: JsonObject) -> None:
        """Add an event; its data is masked."""
        await super().emit(kind, self.masker.value(loads(storable(data))))

    def delta(self, data: JsonObject) -> None:
        """Publish nothing: a value could be divided between two pieces."""

    @property
    def stored_steps(self) -> AttemptSteps:
        """The stored steps of the execution."""
        if self._steps is None:
            self._steps = MaskedSteps(self._services.steps, self._attempt, self._job)
        return self._steps

    def transcripts(self, session_id: UUID) -> Transcripts:
        """Return the conversation of a session; what is added to it is masked."""
        return MaskedTranscripts(super().transcripts(session_id), self.masker)

    async def label(self, changes: Mapping[str, JsonValue]) -> Labels:
        """Change labels; they are masked."""
        return await super().label(self.masker.value(dict(changes)))

    async def progress(self, done: float, total: float | None = None, note: str = "") -> None:
        """Store how far the work is; the note is masked."""
        await super().progress(done, total, self.masker.text(str(note)))

    async def admit(self, call: CallEstimate) -> Reservation | None:
        """Admit a model call; the names in it are masked."""
        return await super().admit(self._named(call))

    async def charge(self, call: ModelCall, reservation: Reservation | None = None) -> None:
        """Record a model call; the names in it are masked."""
        call = self._named(call)
        if call.finish_reason is not None:
            call = replace(call, finish_reason=self.masker.text(call.finish_reason))
        await super().charge(call, reservation)

    def _named(self, call: _Call) -> _Call:
        masker = self.masker
        return replace(call, provider=masker.text(call.provider), model=masker.text(call.model))

    async def ask(self, question: Question) -> Answer:
        """Ask a person; the question is masked."""
        return await super().ask(_question(self.masker, question))

    async def save_session(
        self,
        *,
        external_id: str | None = None,
        state: JsonValue = None,
        messages: Sequence[JsonValue] | None = None,
    ) -> UUID:
        """Store what a later attempt needs; state and messages are masked."""
        masked = None if messages is None else [self.masker.value(each) for each in messages]
        return await super().save_session(
            external_id=external_id, state=self.masker.value(state), messages=masked
        )

    async def record(self, interactions: Sequence[Interaction], *, complete: bool) -> bool:
        """Add to the execution's cassette; requests and answers are masked."""
        masked = [
            Interaction.model_validate_json(dumps(self.masker.value(each.model_dump(mode="json"))))
            for each in interactions
        ]
        return await super().record(masked, complete=complete)
