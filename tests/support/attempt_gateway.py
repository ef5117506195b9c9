"""An attempt's model gateway in tests, with one provider that has OpenAI's API."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from celeriac.agents.gateway.calls import ModelCalls
from celeriac.agents.gateway.loopback import AttemptGateway, Route
from celeriac.agents.gateway.openai import ChatCompletions
from celeriac.agents.gateway.recording import Traffic
from celeriac.agents.models import Prices, Provider
from tests.support.model_scenes import KEY
from tests.support.run_context import RecordingContext


@asynccontextmanager
async def gateway_to(
    base_url: str,
    context: RecordingContext,
    *,
    name: str = "test",
    prices: Prices | None = None,
    traffic: Traffic | None = None,
) -> AsyncIterator[AttemptGateway]:
    """Give the block a gateway to the provider at `base_url`, whose calls `context` charges."""
    provider = Provider(name=name, base_url=base_url, api_key=KEY)
    calls = ModelCalls(context, prices or Prices())
    route = Route(provider, ChatCompletions(provider))
    async with AttemptGateway.serving(calls, traffic or Traffic(), [route]) as gateway:
        yield gateway
