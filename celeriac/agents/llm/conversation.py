"""The message history of a run: loaded, streamed, saved for a later attempt."""

import asyncio
from collections.abc import Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_ai import ModelMessagesTypeAdapter
from pydantic_ai.messages import (
    ModelMessage,
    ModelRequest,
    ModelResponse,
    ToolReturnPart,
    repair_messages,
)

from celeriac.agents.mcp.call_keys import CallKeys
from celeriac.agents.mcp.results import sanitize_json
from celeriac.domain.agents import RunnerName
from celeriac.domain.errors import SessionUnavailableError
from celeriac.domain.executions.model import Completed
from celeriac.domain.sessions import Session
from celeriac.kit.json_types import JsonValue, dumps, storable_text
from celeriac.services.ports import Job, RunContext

PendingKind = Literal["approval", "question"]


class Pending(BaseModel):
    """A call that waits for a person."""

    model_config = ConfigDict(frozen=True)

    key: str
    """The question's key."""
    call_id: str
    kind: PendingKind


class TurnState(BaseModel):
    """An execution's part of a conversation, from its prompt on."""

    model_config = ConfigDict(frozen=True)

    execution_id: str
    responses_before: int = 0
    """How many answers of the model the conversation had when the turn began."""
    steps: dict[str, int] = {}
    pending: tuple[Pending, ...] = ()
    finished: bool = False
    result: JsonValue = None
    """The result of the finished turn, for the case that its execution has not stored it."""
    truncated: bool = False


class State(BaseModel):
    """What a session holds beside its messages, as JSON."""

    model_config = ConfigDict(frozen=True)

    version: Literal[2] = 2
    turn: TurnState | None = None
    """The last one."""


class Conversation:
    """One attempt's view of its conversation."""

    def __init__(self, job: Job, context: RunContext) -> None:
        """Continue the job's session, or begin one.

        Raises SessionUnavailableError if the session can't be continued.
        """
        self._context = context
        self._job = job
        state = _state(job)
        turn = None if state is None else state.turn
        self.history = [] if state is None else _messages(job)
        if turn is not None and turn.execution_id == str(job.execution_id):
            self._turn = turn
            self.prompt: str | None = None
        else:
            # unfinished calls of another execution stay unfinished
            self.history = repair_messages(self.history)
            self._turn = TurnState(
                execution_id=str(job.execution_id), responses_before=_responses(self.history)
            )
            self.prompt = job.prompt
        self.pending = self._turn.pending
        self.result = None
        if self._turn.finished:
            self.result = Completed(self._turn.result, truncated=self._turn.truncated)
        self.steps = CallKeys(self._turn.steps)
        self._latest: Sequence[ModelMessage] = ()
        self._saved = False

    @property
    def requests(self) -> int:
        """How many answers of the model the turn has, from earlier attempts."""
        return _responses(self.history) - self._turn.responses_before

    async def checkpoint(self, messages: Sequence[ModelMessage]) -> None:
        """Note that `messages` are sent to the model; new results of tools are saved."""
        self._latest = list(messages)
        if _brings_results(messages[-1]):
            await self._store(messages, self._turned())

    async def suspend(self) -> None:
        """Save the last request, which another attempt repeats."""
        if self._latest:
            await self._store(self._latest, self._turned())

    async def park(self, messages: Sequence[ModelMessage], pending: Sequence[Pending]) -> None:
        """Save the turn with the calls that wait for a person."""
        await self._store(messages, self._turned(pending))

    async def finish(
        self, messages: Sequence[ModelMessage], done: Completed, *, keep: bool
    ) -> None:
        """End the turn: keep the conversation if the agent or the job says so.

        The result is saved: if the worker dies now, another attempt repeats nothing.
        """
        session = self._job.session
        given = session is not None and (
            session.execution_id != self._job.execution_id or session.parent_id is not None
        )
        turn = self._turn.model_copy(
            update={"finished": True, "result": done.result, "truncated": done.truncated}
        )
        if keep or given:
            await self._store(messages, turn)
        elif session is not None or self._saved:
            await self._store([], turn)

    def _turned(self, pending: Sequence[Pending] = ()) -> TurnState:
        changed = {"steps": self.steps.counts, "pending": tuple(pending)}
        return self._turn.model_copy(update=changed)

    async def _store(self, messages: Sequence[ModelMessage], turn: TurnState) -> None:
        written = ModelMessagesTypeAdapter.dump_python(list(messages), mode="json")
        state = State(turn=turn).model_dump(mode="json")
        await self._context.save_session(state=state, messages=sanitize_json(written))
        self._saved = True


def _state(job: Job) -> State | None:
    session = job.session
    if session is None:
        return None
    if session.runner != RunnerName.LLM:
        raise SessionUnavailableError(
            f"The session {session.id} is one of a {session.runner} agent; an llm agent can't go "
            "on with it.",
            session_id=str(session.id),
        )
    if session.state is None and session.execution_id == job.execution_id:
        return None
    try:
        state = State.model_validate(session.state)
    except ValidationError as error:
        raise _unreadable(session) from error
    if not session.messages and session.execution_id != job.execution_id:
        raise SessionUnavailableError(
            f"The session {session.id} holds no conversation: its agent has keep_session off.",
            session_id=str(session.id),
        )
    return state


def _messages(job: Job) -> list[ModelMessage]:
    assert job.session is not None
    try:
        return ModelMessagesTypeAdapter.validate_json(dumps(job.session.messages))
    except ValidationError as error:
        raise _unreadable(job.session) from error


def _unreadable(session: Session) -> SessionUnavailableError:
    return SessionUnavailableError(
        f"The session {session.id} was saved by another release and can't be read by this one.",
        session_id=str(session.id),
    )


def _responses(messages: Sequence[ModelMessage]) -> int:
    return sum(isinstance(message, ModelResponse) for message in messages)


def _brings_results(message: ModelMessage) -> bool:
    return isinstance(message, ModelRequest) and any(
        isinstance(part, ToolReturnPart) for part in message.parts
    )


INTERVAL_SECONDS = 0.05

Kind = Literal["text", "thinking"]


class Deltas:
    """Joins the pieces of 50 ms into one delta, `{"text": …}` or `{"thinking": …}`.

    Belongs to an event loop; `flush` after the last piece.
    """

    def __init__(self, context: RunContext) -> None:
        """Send the deltas to `context`."""
        self._context = context
        self._kind: Kind = "text"
        self._pieces: list[str] = []
        self._timer: asyncio.TimerHandle | None = None

    def add(self, kind: Kind, piece: str) -> None:
        """Add a piece; it is sent within the interval."""
        if not piece:
            return
        if kind != self._kind:
            self.flush()
            self._kind = kind
        self._pieces.append(piece)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(INTERVAL_SECONDS, self.flush)

    def flush(self) -> None:
        """Send the joined pieces."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._pieces:
            text = "".join(self._pieces)
            self._pieces.clear()
            self._context.delta({self._kind: storable_text(text)})
