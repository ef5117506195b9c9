"""Jobs for the llm runner."""

from uuid import uuid4

from celeriac.domain.agent import LlmAgent
from celeriac.domain.task import Limits
from celeriac.kit.jsontypes import JsonObject
from celeriac.services.ports import Job

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
) -> Job:
    """Return a job of one attempt."""
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
        ),
        prompt=prompt,
        variables={},
        output_schema=schema,
        limits=limits or Limits(soft_seconds=50, hard_seconds=60),
    )
