"""Resume points of Claude Code conversations."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from celeriac.domain.agents import RunnerName
from celeriac.domain.errors import SessionUnavailableError
from celeriac.kit.json_types import JsonObject
from celeriac.services.ports import Job

GO_ON = "The work was interrupted from outside. Go on where you stopped."
"""The prompt for a conversation that a limit or a failing provider has stopped."""


class ResumePoint(StrEnum):
    """How the next attempt of the same execution uses the conversation."""

    BEGIN = "begin"
    """It is ignored: start over."""
    GO_ON = "go_on"
    """It stopped between two steps: continue."""
    OPEN_CALL = "open_call"
    """A tool call in it waits for a person's answer: resuming makes the call."""


@dataclass(frozen=True, slots=True)
class ResumeState:
    """How an attempt begins.

    `resume` is the conversation to continue. `prompt` is the first message; None for an open call,
    which is made without one. `calls` are the open tool calls. `answered` are the keys of the
    questions whose answers the conversation has followed.
    """

    resume: str | None
    prompt: str | None
    forks: bool = False
    calls: JsonObject = field(default_factory=dict)
    answered: tuple[str, ...] = ()


def continuation_of(job: Job) -> ResumeState:
    """Return how an attempt begins.

    A later attempt of the same execution continues where the earlier one was parked, and starts
    over after a failure. Raises SessionUnavailableError for the session of another kind of agent.
    """
    session = job.session
    if session is None:
        return ResumeState(None, job.prompt)
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
                calls = state["calls"]
                return ResumeState(session.external_id, None, calls=calls, answered=answered)
            case ResumePoint.GO_ON:
                return ResumeState(session.external_id, GO_ON, answered=answered)
    if session.execution_id == job.execution_id:
        return ResumeState(None, job.prompt)
    if session.external_id is None:
        raise SessionUnavailableError(
            f"The session {session.id} holds no conversation: its execution ended before the "
            "agent said anything. Run the task without it."
        )
    return ResumeState(session.external_id, job.prompt, forks=job.forks)


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
