"""Recording: requests go on to their providers, and what goes by is kept."""

import asyncio
from types import TracebackType
from typing import Self

import httpx2

from celeriac.agents.providers import Provider
from celeriac.agents.tape.fetch import Fetch
from celeriac.agents.tape.requests import Words, request_of, response_of
from celeriac.agents.tape.server import Answer, Incoming
from celeriac.domain.cassette import MAX_BYTES, Interaction, dump_line

_CONNECT_SECONDS = 10.0
_GRACE_SECONDS = 1.0
"""How long an answer may go on that nobody reads any more: clients leave before its very end."""


class Recorder:
    """Passes requests on and keeps them with their answers, in the order they were begun."""

    def __init__(self, words: Words, *, attempt: int) -> None:
        """Record the attempt number `attempt`."""
        self._words = words
        self._attempt = attempt
        self._upstreams: dict[str, str] = {}
        self._clients: dict[str, httpx2.AsyncClient] = {}
        self._kept: list[Interaction | None] = []
        self._size = 0
        self._tasks: list[asyncio.Task[None]] = []
        self.complete = True
        """Whether all fitted into a cassette."""

    def route(self, provider: str, upstream: str) -> None:
        """Send the requests to `provider` on to the base URL `upstream`."""
        self._upstreams[provider] = upstream.rstrip("/")

    def interactions(self) -> list[Interaction]:
        """Return what was recorded; requests that were given up are not in it."""
        return [each for each in self._kept if each is not None]

    async def handle(self, provider: str, path: str, incoming: Incoming, answer: Answer) -> None:
        """Answer a request with its provider's answer, piece by piece as it comes."""
        self._words.learn(incoming)
        fetch = Fetch(self._client(provider), self._upstreams[provider] + path, incoming)
        place = len(self._kept)
        self._kept.append(None)
        task = asyncio.create_task(self._record(fetch, provider, path, place))
        self._tasks.append(task)
        try:
            await fetch.forward(answer)
        finally:
            asyncio.get_running_loop().call_later(_GRACE_SECONDS, task.cancel)

    async def _record(self, fetch: Fetch, provider: str, path: str, place: int) -> None:
        await fetch.run()
        if not self.complete:
            return
        interaction = Interaction(
            attempt=self._attempt,
            provider=provider,
            request=request_of(fetch.incoming, path, self._words),
            response=response_of(
                fetch.status, fetch.headers, bytes(fetch.body), self._words, broken=fetch.broken
            ),
        )
        self._size += len(dump_line(interaction))
        if self._size > MAX_BYTES:
            self.complete = False
        else:
            self._kept[place] = interaction

    def _client(self, provider: str) -> httpx2.AsyncClient:
        client = self._clients.get(provider)
        if client is None:
            upstream = Provider(name=provider, base_url=self._upstreams[provider])
            client = self._clients[provider] = httpx2.AsyncClient(
                # how long silence is borne is for those to say who asked
                timeout=httpx2.Timeout(None, connect=_CONNECT_SECONDS),
                follow_redirects=True,
                trust_env=not upstream.on_loopback,
            )
        return client

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Wait for the last words of answers, unless the work was cancelled."""
        going = [task for task in self._tasks if not task.done()]
        if going and not isinstance(error, asyncio.CancelledError):
            await asyncio.wait(going, timeout=_GRACE_SECONDS)
        for task in going:
            task.cancel()
        ends = await asyncio.gather(*self._tasks, return_exceptions=True)
        for client in self._clients.values():
            await client.aclose()
        for end in ends:
            if isinstance(end, Exception) and error is None:
                raise end
