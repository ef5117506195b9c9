"""Jobs for the claude runner, and the sessions that they go on with."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

from celeriac.domain.agents import ClaudeAgent
from celeriac.domain.executions.options import NO_OPTIONS, RunOptions
from celeriac.domain.sessions import Session, SessionStatus
from celeriac.domain.tasks import Limits
from celeriac.kit.json_types import JsonObject, JsonValue
from celeriac.services.ports import Job
from celeriac.testing.context import MemoryRunContext

MODEL = "claude-test"


def claude_job(
    prompt: str,
    *,
    schema: JsonObject | None = None,
    session: Session | None = None,
    options: RunOptions = NO_OPTIONS,
    execution_id: UUID | None = None,
    **spec: Any,
) -> Job:
    """Return a job of one attempt; `spec` holds fields of the agent."""
    return Job(
        execution_id=execution_id or uuid4(),
        attempt=1,
        task_name="test",
        agent_name="tester",
        agent=ClaudeAgent(**{"model": MODEL, **spec}),
        prompt=prompt,
        variables={},
        output_schema=schema,
        limits=Limits(soft_seconds=50, hard_seconds=60),
        options=options,
        session=session,
    )


def session_of(context: MemoryRunContext, execution_id: UUID) -> Session:
    """Return the session that an attempt of `execution_id` left in its context."""
    left = stored_session(execution_id, context.external_id, context.state)
    return replace(left, id=context.session_id)


def stored_session(execution_id: UUID, external_id: str | None, state: JsonValue) -> Session:
    """Return a session that `execution_id` began."""
    return Session(
        id=uuid4(),
        workspace_id=uuid4(),
        owner_id=uuid4(),
        execution_id=execution_id,
        runner="claude",
        parent_id=None,
        external_id=external_id,
        state=state,
        status=SessionStatus.ACTIVE,
        error_code=None,
        error_message=None,
        created_at=datetime.now(UTC),
        updated_at=datetime.now(UTC),
    )
