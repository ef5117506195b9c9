"""Chat models of the model library: one for each model that agents name."""

from openai import AsyncOpenAI
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.profiles.openai import OpenAIModelProfile
from pydantic_ai.providers import Provider as AiProvider
from pydantic_ai.providers.openai import OpenAIProvider
from pydantic_ai.providers.openai_compatible import OpenAICompatibleProvider

from celeriac.agents.llm.clients import Clients
from celeriac.agents.providers import OPENAI, Choice, Provider

_WHOLE_STREAMS = OpenAIModelProfile(
    # Without it a stream that breaks off cleanly would pass for a finished answer.
    openai_chat_streaming_requires_finish_reason=True,
)
_COMPATIBLE = OpenAIModelProfile(
    openai_chat_streaming_requires_finish_reason=True,
    # The older name `max_tokens` is the one that all compatible servers know.
    openai_chat_supports_max_completion_tokens=False,
    supports_json_schema_output=True,
    # They take schemas as they are; OpenAI's strict dialect would drop lengths and ranges.
    json_schema_transformer=None,
)


class ChatModels:
    """Makes each model when it is first asked for, once for each event loop."""

    def __init__(self, clients: Clients) -> None:
        """Reach providers through `clients`."""
        self._clients = clients
        self._models: dict[Choice, tuple[AsyncOpenAI, OpenAIChatModel]] = {}

    def of(self, choice: Choice) -> OpenAIChatModel:
        """Return the model that `choice` names; called on the loop."""
        client = self._clients.of(choice.provider)
        known = self._models.get(choice)
        if known is not None and known[0] is client:
            return known[1]
        model = OpenAIChatModel(
            choice.model,
            provider=_provider(choice.provider, client),
            profile=_WHOLE_STREAMS if choice.provider.name == OPENAI else _COMPATIBLE,
        )
        self._models[choice] = client, model  # the client is another one on another event loop
        return model

    async def aclose(self) -> None:
        """Close the clients."""
        self._models.clear()
        await self._clients.aclose()


def _provider(provider: Provider, client: AsyncOpenAI) -> AiProvider[AsyncOpenAI]:
    if provider.name == OPENAI:
        return OpenAIProvider(openai_client=client)
    return OpenAICompatibleProvider(provider.name, openai_client=client)
