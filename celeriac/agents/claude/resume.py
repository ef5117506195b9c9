"""Resume points of Claude Code conversations, and structured output."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from claude_agent_sdk import ResultMessage

from celeriac.agents.structured import ObjectSchema
from celeriac.domain.agents import RunnerName
from celeriac.domain.errors import OutputInvalidError, SessionUnavailableError
from celeriac.kit.json_types import JsonObject, JsonValue
from celeriac.kit.text import clip
from celeriac.services.ports import Job

GO_ON = "The work was interrupted from outside. Go on where you stopped."
"""What is said to a conversation that a limit or a failing provider had stopped."""


class ResumePoint(StrEnum):
    """What the next attempt of the same execution does with the conversation."""

    BEGIN = "begin"
    """It is of no use: begin as if there had been no attempt."""
    GO_ON = "go_on"
    """It stopped between two steps: go on."""
    OPEN_CALL = "open_call"
    """A tool call waits in it for a person's answer: resume, and it is made."""


@dataclass(frozen=True, slots=True)
class ResumeState:
    """How an attempt begins.

    `resume` is the conversation to go on with, `prompt` what is said first (None: nothing, an open
    call goes on by itself), `calls` are tool calls that are still open, `answered` the keys of the
    questions whose answers the conversation has followed.
    """

    resume: str | None
    prompt: str | None
    forks: bool
    calls: JsonObject
    answered: tuple[str, ...] = ()


def continuation_of(job: Job) -> ResumeState:
    """Say how an attempt begins.

    A later attempt of the same execution goes on where the earlier one was parked, and begins
    anew after a failure. Raises SessionUnavailableError for the session of another kind of agent.
    """
    session = job.session
    if session is None:
        return ResumeState(None, job.prompt, forks=False, calls={})
    if session.runner != RunnerName.CLAUDE:
        raise SessionUnavailableError(
            f"The session {session.id} belongs to an agent of the kind {session.runner}; this "
            "agent's sessions are of the kind claude."
        )
    state: dict[str, Any] = session.state if isinstance(session.state, dict) else {}
    if state.get("execution_id") == str(job.execution_id) and session.external_id:
        answered = tuple(state.get("answered", ()))  # missing where an older release stored it
        match state.get("next"):
            case ResumePoint.OPEN_CALL:
                start = ResumeState(session.external_id, None, forks=False, calls=state["calls"])
                return replace(start, answered=answered)
            case ResumePoint.GO_ON:
                start = ResumeState(session.external_id, GO_ON, forks=False, calls={})
                return replace(start, answered=answered)
    if session.execution_id == job.execution_id:
        return ResumeState(None, job.prompt, forks=False, calls={})
    if session.external_id is None:
        raise SessionUnavailableError(
            f"The session {session.id} holds no conversation: its execution ended before the "
            "agent said anything. Run the task without it."
        )
    return ResumeState(session.external_id, job.prompt, forks=job.forks, calls={})


def state_of(
    job: Job, following: ResumePoint, calls: JsonObject, answered: Iterable[str] = ()
) -> JsonObject:
    """Return what a session stores for the next attempt."""
    return {
        "execution_id": str(job.execution_id),
        "next": following.value,
        "calls": dict(calls),
        "answered": list(answered),
    }


_DIALECT = "$schema"
_SHOWN = 2_000


class StructuredOutput:
    """What a run must return under a JSON schema.

    Claude Code gives the schema to the model as a tool whose arguments are the answer.
    """

    def __init__(self, schema: JsonObject) -> None:
        self._schema = ObjectSchema({k: value for k, value in schema.items() if k != _DIALECT})

    @property
    def output_format(self) -> dict[str, JsonValue]:
        """The SDK's option for it."""
        return {"type": "json_schema", "schema": self._schema.asked}

    async def value(self, result: ResultMessage) -> JsonValue:
        """Return the answer; raises OutputInvalidError where it doesn't fit."""
        answer = result.structured_output
        if not isinstance(answer, dict) or not self._schema.is_complete(answer):
            raise OutputInvalidError(
                "The agent gave its answer as a text, not as the task's output schema asks.",
                answer=clip(result.result or "", _SHOWN),
            )
        if faults := await self._schema.faults(answer):
            raise OutputInvalidError(
                f"The answer doesn't fit the task's output schema: {'; '.join(faults)}.",
                faults=faults,
            )
        return self._schema.value(answer)
