"""Runs that are stopped: by a silent model, by their soft limit, by a cancellation."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from celeriac.agents.llm.runner import LlmRunner
from celeriac.agents.llm.silence import SilenceLimits
from celeriac.agents.models import Prices, Provider, Providers
from celeriac.domain.errors import ProviderError
from celeriac.domain.tasks import Limits
from tests.support.llm_jobs import llm_job, result_of
from tests.support.model_server import ModelServer
from tests.support.run_context import RecordingContext
from tests.support.waiting import wait_until

pytestmark = pytest.mark.anyio

IMPATIENT = SilenceLimits(first=0.6, between=0.3)


@pytest.fixture
async def impatient(model_server: ModelServer) -> AsyncIterator[LlmRunner]:
    providers = Providers([Provider(name="test", base_url=model_server.base_url)])
    runner = LlmRunner(providers, Prices(), patience=IMPATIENT)
    yield runner
    await runner.aclose()


async def assert_left(server: ModelServer, scene: str) -> None:
    await asyncio.to_thread(
        wait_until, lambda: server.left == [scene], "the client has closed its connection"
    )


@pytest.mark.parametrize(("scene", "seconds"), [("silent", "0.6"), ("stalled", "0.3")])
async def test_a_model_that_falls_silent_is_left(
    impatient: LlmRunner,
    context: RecordingContext,
    model_server: ModelServer,
    scene: str,
    seconds: str,
) -> None:
    with pytest.raises(ProviderError, match=f"test/model said nothing for {seconds} seconds"):
        await impatient.run(llm_job(scene), context)

    await assert_left(model_server, scene)
    assert len(model_server.received) == 1, "nobody asks a second time behind our back"


async def test_a_slow_model_is_not_silent(impatient: LlmRunner, context: RecordingContext) -> None:
    outcome = await impatient.run(llm_job("slow"), context)

    assert result_of(outcome) == "each word comes in its own good time "


async def test_silence_is_noticed_before_the_soft_limit(
    runner: LlmRunner, context: RecordingContext
) -> None:
    limits = Limits(soft_seconds=0.5, hard_seconds=60)

    with pytest.raises(ProviderError, match=r"said nothing for 0\.4 seconds"):
        await runner.run(llm_job("stalled", limits=limits), context)


@pytest.mark.parametrize("scene", ["silent", "stalled"])
@pytest.mark.requirement("C5")
async def test_a_cancelled_run_closes_its_stream_and_leaves_nothing(
    runner: LlmRunner, context: RecordingContext, model_server: ModelServer, scene: str
) -> None:
    before = asyncio.all_tasks()
    run = asyncio.create_task(runner.run(llm_job(scene), context))
    await asyncio.to_thread(wait_until, lambda: model_server.received, "the model was asked")
    if scene == "stalled":
        await asyncio.to_thread(wait_until, lambda: context.deltas, "the answer has begun")

    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run

    await assert_left(model_server, scene)
    assert asyncio.all_tasks() <= before, "no task remains"
    reasons = [call.finish_reason for call in context.calls]
    assert reasons == (["unfinished"] if scene == "stalled" else [])


async def test_runs_share_one_connection_pool(
    runner: LlmRunner, context: RecordingContext, model_server: ModelServer
) -> None:
    outcomes = await asyncio.gather(
        *(runner.run(llm_job(f"plain {number}"), context) for number in range(50))
    )

    assert {result_of(outcome) for outcome in outcomes} == {"Hello there, friend."}
    assert len(model_server.received) == len(context.calls) == 50
