"""Where an attempt takes a conversation up: anew, after a wait, or from an earlier execution."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from celeriac.domain.agent import RunnerName
from celeriac.domain.errors import SessionUnavailableError
from celeriac.kit.jsontypes import JsonObject
from celeriac.services.ports import Job

GO_ON = "The work was interrupted from outside. Go on where you stopped."
"""What is said to a conversation that a limit or a failing provider had stopped."""


class Next(StrEnum):
    """What the next attempt of the same execution does with the conversation."""

    BEGIN = "begin"
    """It is of no use: begin as if there had been no attempt."""
    GO_ON = "go_on"
    """It stopped between two steps: go on."""
    OPEN_CALL = "open_call"
    """A tool call waits in it for a person's answer: resume, and it is made."""


@dataclass(frozen=True, slots=True)
class Continuation:
    """How an attempt begins.

    `resume` is the conversation to go on with, `prompt` what is said first (None: nothing, an open
    call goes on by itself), `calls` are tool calls that are still open.
    """

    resume: str | None
    prompt: str | None
    forks: bool
    calls: JsonObject


def continuation_of(job: Job) -> Continuation:
    """Say how an attempt begins.

    A later attempt of the same execution goes on where the earlier one was parked, and begins
    anew after a failure. Raises SessionUnavailableError for the session of another kind of agent.
    """
    session = job.session
    if session is None:
        return Continuation(None, job.prompt, forks=False, calls={})
    if session.runner != RunnerName.CLAUDE:
        raise SessionUnavailableError(
            f"The session {session.id} belongs to an agent of the kind {session.runner}; this "
            "agent's sessions are of the kind claude."
        )
    state: dict[str, Any] = session.state if isinstance(session.state, dict) else {}
    if state.get("execution_id") == str(job.execution_id) and session.external_id:
        match state.get("next"):
            case Next.OPEN_CALL:
                return Continuation(session.external_id, None, forks=False, calls=state["calls"])
            case Next.GO_ON:
                return Continuation(session.external_id, GO_ON, forks=False, calls={})
    if session.execution_id == job.execution_id:
        return Continuation(None, job.prompt, forks=False, calls={})
    if session.external_id is None:
        raise SessionUnavailableError(
            f"The session {session.id} holds no conversation: its execution ended before the "
            "agent said anything. Run the task without it."
        )
    return Continuation(session.external_id, job.prompt, forks=job.forks, calls={})


def state_of(job: Job, following: Next, calls: JsonObject) -> JsonObject:
    """Return what a session stores for the next attempt."""
    return {"execution_id": str(job.execution_id), "next": following.value, "calls": dict(calls)}
