"""Chat models and the HTTP clients of their providers, one for each and shared by a process.

A recorded or replayed run has clients of its own.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx2
from openai import DEFAULT_CONNECTION_LIMITS, AsyncOpenAI
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.profiles.openai import OpenAIModelProfile
from pydantic_ai.providers import Provider as AiProvider
from pydantic_ai.providers.openai import OpenAIProvider
from pydantic_ai.providers.openai_compatible import OpenAICompatibleProvider

from celeriac.agents.gateway.client import MAX_RETRIES, ModelClient
from celeriac.agents.gateway.openai import ChatCompletions
from celeriac.agents.gateway.recording import Traffic, recording
from celeriac.agents.gateway.served_models import ServedModels
from celeriac.agents.models import OPENAI, ModelRef, Provider, Providers
from celeriac.services.ports import Job, RunContext

_CONNECT_SECONDS = 10.0
_NO_KEY = "none"
_OPENAI_ONLY = ("openai-organization", "openai-project")


async def _without_openai_headers(request: httpx2.Request) -> None:
    """Remove the values of OPENAI_ORG_ID and OPENAI_PROJECT_ID, which are for OpenAI only."""
    for name in _OPENAI_ONLY:
        request.headers.pop(name, None)


_COMPATIBLE = OpenAIModelProfile(
    # The older name `max_tokens` is the one that all compatible servers know.
    openai_chat_supports_max_completion_tokens=False,
    supports_json_schema_output=True,
    # They take schemas as they are; OpenAI's strict dialect would drop lengths and ranges.
    json_schema_transformer=None,
)


class ChatModels:
    """Creates each model, and the client of its provider, on first use and for each event loop."""

    def __init__(self, *, silence_seconds: float, traffic: Traffic | None = None) -> None:
        """Let a connection be silent for `silence_seconds` before a request fails."""
        self._timeout = httpx2.Timeout(silence_seconds, connect=_CONNECT_SECONDS)
        self._traffic = traffic or Traffic()
        self._clients: dict[Provider, AsyncOpenAI] = {}
        self._models: dict[ModelRef, OpenAIChatModel] = {}
        self._loop: asyncio.AbstractEventLoop | None = None

    def of(self, choice: ModelRef) -> OpenAIChatModel:
        """Return the model that `choice` names; called on the loop."""
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            # connections belong to their loop; those of a loop that was replaced are dropped
            self._loop, self._clients, self._models = loop, {}, {}
        model = self._models.get(choice)
        if model is None:
            client = self._clients.get(choice.provider)
            if client is None:
                client = self._clients[choice.provider] = self._client(choice.provider)
            model = self._models[choice] = OpenAIChatModel(
                choice.model,
                provider=_provider(choice.provider, client),
                profile=None if choice.provider.name == OPENAI else _COMPATIBLE,
            )
        return model

    async def aclose(self) -> None:
        """Close all connections."""
        clients, self._clients, self._models = list(self._clients.values()), {}, {}
        for client in clients:
            await client.close()

    def _client(self, provider: Provider) -> AsyncOpenAI:
        return AsyncOpenAI(
            base_url=provider.base_url,
            api_key=provider.api_key or _NO_KEY,
            max_retries=0,  # the HTTP client repeats requests itself
            http_client=ModelClient(
                provider,
                ChatCompletions(provider),
                retries=MAX_RETRIES,
                timeout=self._timeout,
                limits=DEFAULT_CONNECTION_LIMITS,
                follow_redirects=True,
                transport=self._traffic.transport(provider),
                event_hooks={
                    "request": [] if provider.name == OPENAI else [_without_openai_headers]
                },
            ),
        )


def _provider(provider: Provider, client: AsyncOpenAI) -> AiProvider[AsyncOpenAI]:
    if provider.name == OPENAI:
        return OpenAIProvider(openai_client=client)
    return OpenAICompatibleProvider(provider.name, openai_client=client)


class ModelFactory:
    """The models of all providers; belongs to one event loop."""

    def __init__(self, providers: Providers, *, silence_seconds: float) -> None:
        """Let a connection be silent for `silence_seconds` before a request fails."""
        self._providers = providers
        self._silence_seconds = silence_seconds
        self._models = self._new_models()
        self._served = ServedModels()

    @asynccontextmanager
    async def model(
        self, name: str, job: Job, context: RunContext
    ) -> AsyncIterator[tuple[ModelRef, OpenAIChatModel]]:
        """Give the block the model that `provider/model` names.

        Records or replays its requests as the job's options say (see `recording`). Raises
        AgentMisconfiguredError, also for a model that the local server doesn't serve. A replay
        needs no provider that is set up.
        """
        async with recording(job, context, keys=self._providers.keys) as traffic:
            choice = self._providers.choose(name, reached=not traffic.replays)
            if not traffic.replays:
                await self._served.check(choice)
            if traffic.direct:
                yield choice, self._models.of(choice)
                return
            own = self._new_models(traffic)
            try:
                yield choice, own.of(choice)
            finally:
                await own.aclose()

    async def aclose(self) -> None:
        """Close the connections."""
        await self._models.aclose()

    def _new_models(self, traffic: Traffic | None = None) -> ChatModels:
        return ChatModels(silence_seconds=self._silence_seconds, traffic=traffic)
