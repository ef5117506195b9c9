"""How runs reach their models: over the process's connections, or each over its own tape."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

from pydantic_ai.models.openai import OpenAIChatModel

from celeriac.agents.gateway.served import ServedModels
from celeriac.agents.llm.chat_models import ChatModels
from celeriac.agents.llm.clients import Clients
from celeriac.agents.providers import Choice, Providers
from celeriac.agents.tape import taping
from celeriac.services.ports import Job, RunContext


class Reach:
    """The models of all providers; belongs to one event loop."""

    def __init__(self, providers: Providers, *, silence_seconds: float) -> None:
        """Let a connection be silent for `silence_seconds` before a try counts as failed."""
        self._providers = providers
        self._silence_seconds = silence_seconds
        self._models = self._new_models()
        self._served = ServedModels()

    @asynccontextmanager
    async def model(
        self, name: str, job: Job, context: RunContext
    ) -> AsyncIterator[tuple[Choice, OpenAIChatModel]]:
        """Give the block what `provider/model` names, and the model to ask.

        Records or plays its requests as the job's options say (see `taping`). Raises
        AgentMisconfiguredError, also for a model that the local server doesn't serve; what is
        played needs no provider that is set up.
        """
        async with taping(job, context, keys=self._providers.keys) as tape:
            choice = self._providers.choose(name, reached=not tape.plays)
            if not tape.plays:
                await self._served.check(choice)
            if not tape.active:
                yield choice, self._models.of(choice)
                return
            own = self._new_models()
            try:
                yield choice, own.of(replace(choice, provider=tape.reached(choice.provider)))
            finally:
                await own.aclose()

    async def aclose(self) -> None:
        """Close the connections."""
        await self._models.aclose()

    def _new_models(self) -> ChatModels:
        return ChatModels(Clients(silence_seconds=self._silence_seconds))
