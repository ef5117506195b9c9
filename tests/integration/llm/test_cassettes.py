"""Runs of the llm runner that are recorded, and played without their provider."""

from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import pytest

from celeriac.agents.llm.runner import LlmRunner
from celeriac.agents.llm.silence import SilenceLimits
from celeriac.agents.mcp.servers import ToolServers
from celeriac.agents.models import Prices, Provider, Providers
from celeriac.domain.cassettes import Cassette, dump, parse
from celeriac.domain.errors import (
    AgentMisconfiguredError,
    CassetteMismatchError,
    ExecutionError,
    OutputInvalidError,
)
from celeriac.domain.executions.options import RunOptions
from celeriac.kit.json_types import JsonValue
from celeriac.services.ports import Job
from tests.support.llm_jobs import TICKET_SCHEMA, llm_job, result_of
from tests.support.model_scenes import KEY, TICKET
from tests.support.model_server import ModelServer
from tests.support.run_context import RecordingContext

pytestmark = pytest.mark.anyio

ADD = 'use tools__add {"a": 2, "b": 3}'


async def _record(runner: LlmRunner, job: Job, context: RecordingContext) -> JsonValue:
    """Run a job and record it; return its result, or the code of its error."""
    try:
        outcome = await runner.run(replace(job, options=RunOptions(record=True)), context)
    except ExecutionError as error:
        return error.code
    return result_of(outcome)


async def _play(runner: LlmRunner, job: Job, context: RecordingContext) -> JsonValue:
    """Run a job on what `context` has recorded, as it comes back from its text."""
    player = RecordingContext(context.workdir)
    player.played = parse(dump(context.recorded))
    outcome = await runner.run(replace(job, options=RunOptions(cassette_id=uuid4())), player)
    assert [call.output_tokens for call in player.calls] == [
        call.output_tokens for call in context.calls if call.output_tokens
    ], "the same calls are metered"
    return result_of(outcome)


@pytest.fixture
def lonely(tool_servers: ToolServers) -> LlmRunner:
    """A runner that has no provider at all."""
    return LlmRunner(
        Providers([]), Prices({}), servers=tool_servers, patience=SilenceLimits(10.0, 5.0)
    )


@pytest.mark.parametrize(
    "job",
    [
        llm_job("plain"),
        llm_job("thinking"),
        llm_job("structured", schema=TICKET_SCHEMA),
        llm_job("repaired", schema=TICKET_SCHEMA),
        llm_job("hurried"),
        llm_job("flaky"),
        llm_job(ADD, mcp_servers=[{"name": "tools"}]),
    ],
    ids=lambda job: job.prompt.split()[0],
)
async def test_a_recorded_run_is_played_without_its_provider(
    runner: LlmRunner,
    lonely: LlmRunner,
    model_server: ModelServer,
    context: RecordingContext,
    job: Job,
) -> None:
    result = await _record(runner, job, context)
    asked = len(model_server.received)
    assert len(context.recorded.interactions) == asked > 0
    assert await _play(lonely, job, context) == result
    assert len(model_server.received) == asked, "nothing was asked of the provider"


@pytest.mark.parametrize(
    "scene", "unauthorized quota down status_418 malformed misshapen truncated dropped".split()
)
async def test_failures_are_played_as_they_were(
    runner: LlmRunner, lonely: LlmRunner, context: RecordingContext, scene: str
) -> None:
    job = llm_job(scene.replace("_", " "))
    code = await _record(runner, job, context)
    with pytest.raises(ExecutionError) as failed:
        await _play(lonely, job, context)
    assert failed.value.code == code


async def test_no_key_is_recorded_even_where_the_provider_repeats_it(
    runner: LlmRunner, context: RecordingContext
) -> None:
    await _record(runner, llm_job("unauthorized"), context)
    text = dump(context.recorded)
    assert KEY not in text
    assert "Incorrect API key: [removed]" in text
    assert "authorization" not in text


async def test_another_prompt_ends_the_run_for_good_and_says_where_it_differs(
    runner: LlmRunner, lonely: LlmRunner, model_server: ModelServer, context: RecordingContext
) -> None:
    await _record(runner, llm_job("plain, and friendly"), context)
    asked = len(model_server.received)
    with pytest.raises(CassetteMismatchError) as refused:
        await _play(lonely, llm_job("plain, and short"), context)
    assert not refused.value.retryable
    assert 'messages[0].content (then "plain, and friendly"' in refused.value.message
    assert len(model_server.received) == asked


async def test_a_run_that_asks_too_often_is_not_answered_twice(
    runner: LlmRunner, lonely: LlmRunner, context: RecordingContext
) -> None:
    job = llm_job("repaired", schema=TICKET_SCHEMA)
    assert await _record(runner, job, context) == TICKET
    context.recorded = Cassette(context.recorded.header, context.recorded.interactions[:1])
    with pytest.raises(CassetteMismatchError):
        await _play(lonely, job, context)


async def test_what_was_recorded_before_a_failure_is_kept(
    runner: LlmRunner, context: RecordingContext
) -> None:
    job = llm_job("invalid", schema=TICKET_SCHEMA)
    assert await _record(runner, job, context) == OutputInvalidError.code
    assert len(context.recorded.interactions) == 2


async def test_a_provider_that_is_away_is_recorded_as_that(
    runner: LlmRunner, lonely: LlmRunner, context: RecordingContext
) -> None:
    job = llm_job("plain", model="away/model")
    assert await _record(runner, job, context) == "provider_error"
    assert {each.response.status for each in context.recorded.interactions} == {502}
    with pytest.raises(ExecutionError, match="can't be reached"):
        await _play(lonely, job, context)


async def test_recording_needs_the_provider(lonely: LlmRunner, context: RecordingContext) -> None:
    with pytest.raises(AgentMisconfiguredError, match="isn't configured"):
        await lonely.run(replace(llm_job("plain"), options=RunOptions(record=True)), context)


async def test_a_provider_without_its_key_is_good_enough_to_play(
    runner: LlmRunner, context: RecordingContext, tmp_path: Path
) -> None:
    job = llm_job("plain", model="openai/gpt")
    await _record(runner, job, context)
    keyless = Providers([Provider(name="openai", base_url="https://x", missing="no key")])
    offline = LlmRunner(keyless, Prices({}))
    assert await _play(offline, job, context) == "Hello there, friend."
    await offline.aclose()
