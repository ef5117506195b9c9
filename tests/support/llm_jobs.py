"""Jobs for the llm runner."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

from celeriac.domain.agents import LlmAgent
from celeriac.domain.executions.model import Completed, Parked
from celeriac.domain.sessions import Session, SessionStatus
from celeriac.domain.tasks import Limits
from celeriac.kit.json_types import JsonObject, JsonValue
from celeriac.services.ports import Job
from celeriac.testing.context import MemoryRunContext

TICKET_SCHEMA: JsonObject = {
    "type": "object",
    "properties": {
        "category": {"enum": ["billing", "outage"]},
        "summary": {"type": "string", "maxLength": 40},
    },
    "required": ["category", "summary"],
    "additionalProperties": False,
}


def llm_job(
    prompt: str,
    *,
    model: str = "test/model",
    schema: JsonObject | None = None,
    instructions: str = "",
    temperature: float | None = None,
    max_output_tokens: int | None = None,
    max_model_calls: int = 20,
    limits: Limits | None = None,
    **agent: Any,
) -> Job:
    """Return a job of one attempt; `agent` are more fields of its agent."""
    return Job(
        execution_id=uuid4(),
        attempt=1,
        task_name="test",
        agent_name="tester",
        agent=LlmAgent(
            model=model,
            instructions=instructions,
            temperature=temperature,
            max_output_tokens=max_output_tokens,
            max_model_calls=max_model_calls,
            **agent,
        ),
        prompt=prompt,
        variables={},
        output_schema=schema,
        limits=limits or Limits(soft_seconds=50, hard_seconds=60),
    )


def result_of(outcome: Completed | Parked) -> JsonValue:
    """Return the result of an attempt that must have completed."""
    assert isinstance(outcome, Completed), outcome
    return outcome.result


def parked_of(outcome: Completed | Parked) -> Parked:
    """Return what an attempt waits for that must have been parked."""
    assert isinstance(outcome, Parked), outcome
    return outcome


def next_attempt(job: Job, saved: MemoryRunContext) -> Job:
    """Return the attempt after `job`, which has saved a session of its own."""
    return replace(job, attempt=job.attempt + 1, session=saved_session(saved, by=job.execution_id))


def saved_session(saved: MemoryRunContext, *, by: UUID) -> Session:
    """Return the session that an execution has saved in its context."""
    return session(saved.state, saved.messages, by=by)


def session(
    state: JsonValue, messages: Sequence[JsonValue] = (), *, by: UUID, runner: str = "llm"
) -> Session:
    """Return the session that an execution has begun."""
    now = datetime.now(UTC)
    return Session(
        id=uuid4(),
        workspace_id=uuid4(),
        owner_id=uuid4(),
        execution_id=by,
        runner=runner,
        parent_id=None,
        external_id=None,
        state=state,
        status=SessionStatus.ACTIVE,
        error_code=None,
        error_message=None,
        created_at=now,
        updated_at=now,
        messages=tuple(messages),
    )
