"""HTTP clients of model providers: one for each, shared by all runs of a process."""

import asyncio

import httpx2
from openai import DEFAULT_CONNECTION_LIMITS, AsyncOpenAI

from celeriac.agents.gateway.http import ChatClient
from celeriac.agents.providers import OPENAI, Provider

_CONNECT_SECONDS = 10.0
_NO_KEY = "none"
_OPENAI_ONLY = ("openai-organization", "openai-project")


class Clients:
    """Makes each provider's client when it is first asked for; belongs to one event loop."""

    def __init__(self, *, silence_seconds: float) -> None:
        """Let a connection be silent for `silence_seconds` before a try counts as failed."""
        self._timeout = httpx2.Timeout(silence_seconds, connect=_CONNECT_SECONDS)
        self._clients: dict[Provider, AsyncOpenAI] = {}
        self._loop: asyncio.AbstractEventLoop | None = None

    def of(self, provider: Provider) -> AsyncOpenAI:
        """Return the client of `provider`; called on the loop."""
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            # connections belong to their loop; one that an agent has blocked is given up with them
            self._loop, self._clients = loop, {}
        client = self._clients.get(provider)
        if client is None:
            client = self._clients[provider] = self._make(provider)
        return client

    async def aclose(self) -> None:
        """Close all connections."""
        clients, self._clients = list(self._clients.values()), {}
        for client in clients:
            await client.close()

    def _make(self, provider: Provider) -> AsyncOpenAI:
        return AsyncOpenAI(
            base_url=provider.base_url,
            api_key=provider.api_key or _NO_KEY,
            max_retries=0,  # the HTTP client repeats requests itself
            http_client=ChatClient(
                timeout=self._timeout,
                limits=DEFAULT_CONNECTION_LIMITS,
                follow_redirects=True,
                # A proxy of the environment can't know the way to this machine's own servers.
                trust_env=not provider.on_loopback,
                event_hooks={
                    "request": [] if provider.name == OPENAI else [_without_openai_headers]
                },
            ),
        )


async def _without_openai_headers(request: httpx2.Request) -> None:
    """Keep from other providers what the SDK reads from OPENAI_ORG_ID and OPENAI_PROJECT_ID."""
    for name in _OPENAI_ONLY:
        request.headers.pop(name, None)
