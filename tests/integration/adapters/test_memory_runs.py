"""The fakes of a run: a runner, its context, and the place where runners are found."""

from pathlib import Path

import pytest

from celeriac.domain.agents import LlmAgent, PythonAgent, RunnerName
from celeriac.domain.errors import AgentMisconfiguredError
from celeriac.domain.executions.events import EventType
from celeriac.domain.executions.model import Completed
from celeriac.domain.usage import ModelCall
from celeriac.kit.json_types import JsonValue
from celeriac.services.ports import Job, RunContext, Runners
from celeriac.testing.context import MemoryRunContext
from tests.support.llm_jobs import llm_job
from tests.support.memory import MemoryRunner, MemoryRunners


async def work(job: Job, context: RunContext) -> JsonValue:
    await context.emit(EventType.CUSTOM, {"prompt": job.prompt})
    context.delta({"text": "so"})
    await context.charge(ModelCall("test", "model", input_tokens=1, output_tokens=2))
    await context.progress(1, 2, "half")
    return {"key": context.idempotency_key("mail"), "workdir": context.workdir.is_dir()}


@pytest.mark.anyio
async def test_a_run_in_memory_records_every_call(tmp_path: Path) -> None:
    runners: Runners = MemoryRunners({RunnerName.LLM: MemoryRunner(work)})
    context = MemoryRunContext(tmp_path / "work", execution_id="e-1")
    job = llm_job("Do it.")

    outcome = await runners.get(job.agent).run(job, context)

    assert outcome == Completed({"key": "e-1:mail", "workdir": True})
    assert context.events == [(EventType.CUSTOM, {"prompt": "Do it."})]
    assert context.deltas == [{"text": "so"}]
    assert [call.output_tokens for call in context.calls] == [2]
    assert context.steps == [(1, 2, "half")]


def test_a_kind_without_runner_is_a_misconfigured_agent() -> None:
    runners = MemoryRunners({RunnerName.LLM: MemoryRunner(work)})

    assert runners.get(LlmAgent(model="test/model")).name == "memory"
    with pytest.raises(AgentMisconfiguredError, match="python"):
        runners.get(PythonAgent(function="shop.agents:score"))
