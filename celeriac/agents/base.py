"""Shared by runners: the kind of their agent, and messages in an execution's log.

What a runner must be is `Runner` in `celeriac.services.ports`; `registry.py` makes it.
"""

from pathlib import Path
from typing import Literal, TypeVar

from pydantic import BaseModel

from celeriac.domain.errors import AgentMisconfiguredError
from celeriac.domain.executions.events import EventType
from celeriac.domain.usage import Clip
from celeriac.kit.json_types import JsonValue, storable_text
from celeriac.kit.text import clipped_field
from celeriac.kit.words import counted
from celeriac.services.ports import Job, RunContext

MAX_MESSAGE_CHARACTERS = 20_000
"""The longest message in the log; longer ones are cut."""


Role = Literal["system", "user", "assistant"]
_Spec = TypeVar("_Spec", bound=BaseModel)


def home_of(job: Job, context: RunContext) -> Path:
    """Return the home of a child: its working directory, unless that is a checkout."""
    return context.workdir if job.checkout is None else job.checkout.home


def writes_of(job: Job) -> tuple[Path, ...]:
    """Return what a child may write to besides its working directory."""
    return () if job.checkout is None else (job.checkout.top, job.checkout.home)


def spec_of(job: Job, kind: type[_Spec]) -> _Spec:
    """Return the agent of `job`; raises AgentMisconfiguredError if it is of another kind."""
    if not isinstance(job.agent, kind):
        runner = kind.model_fields["runner"].default
        raise AgentMisconfiguredError(
            f"The agent {job.agent_name} is not a {runner} agent.", field="runner"
        )
    return job.agent


async def emit_message(context: RunContext, role: Role, content: str, **others: JsonValue) -> None:
    """Add a message to the execution's log.

    The event has `role`, `others` and `content`, and for a longer message `clipped`, the number of
    characters left out.
    """
    field = clipped_field("content", content, MAX_MESSAGE_CHARACTERS)
    field["content"] = storable_text(field["content"])
    await context.emit(EventType.MESSAGE, {"role": role, **others, **field})


async def emit_clipped(context: RunContext, clip: Clip) -> None:
    """Add a warning to the execution's log that names the budget that cut an answer off."""
    message = (
        f"The answer was cut off at {counted(clip.output_tokens, 'token')}: no more is left of the "
        f"{clip.budget}."
    )
    await note(context, message, source="budget", level="warning")


async def note(context: RunContext, message: str, *, source: str, level: str = "info") -> None:
    """Add a line of Celeriac's own to the execution's log."""
    await context.emit(EventType.LOG, {"level": level, "message": message, "source": source})
