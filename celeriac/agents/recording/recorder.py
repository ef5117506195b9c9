"""Records model traffic into a cassette, or plays it back."""

import asyncio
from types import TracebackType
from typing import Self

import httpx2

from celeriac.agents.models import Provider
from celeriac.agents.recording.fetch import Fetch, SecretMasker, request_of, response_of
from celeriac.agents.recording.server import HttpRequest, ResponseWriter
from celeriac.domain.cassettes import (
    MAX_BYTES,
    Interaction,
    Replayer,
    ReplayResult,
    dump_line,
    write_body,
)
from celeriac.domain.errors import CassetteMismatchError
from celeriac.kit.json_types import dumps

_CONNECT_SECONDS = 10.0
_GRACE_SECONDS = 1.0
"""How long an answer may go on that nobody reads any more: clients leave before its very end."""


class Recorder:
    """Passes requests on and keeps them with their answers, in the order they were begun."""

    def __init__(self, words: SecretMasker, *, attempt: int) -> None:
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

    async def handle(
        self, provider: str, path: str, incoming: HttpRequest, answer: ResponseWriter
    ) -> None:
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


_BAD_REQUEST = 400
_FAILED = 400
_AGAIN = {"retry-after": "0", "retry-after-ms": "1", "x-should-retry": "true"}
_NEVER = {"x-should-retry": "false"}


class Playback:
    """Answers the requests of one attempt."""

    def __init__(self, player: Replayer, words: SecretMasker) -> None:
        """Answer what `player` has answers to."""
        self._player = player
        self._words = words
        self.mismatch: CassetteMismatchError | None = None
        """The first request that had no answer."""

    async def handle(
        self, provider: str, path: str, incoming: HttpRequest, answer: ResponseWriter
    ) -> None:
        """Answer a request as it was answered, or refuse it for good."""
        self._words.learn(incoming)
        try:
            request = request_of(incoming, path, self._words)
            played = self._player.answer(provider, request)
        except CassetteMismatchError as error:
            self.mismatch = self.mismatch or error
            await _refuse(error, answer)
        else:
            await self._play(played, answer)

    async def _play(self, played: ReplayResult, answer: ResponseWriter) -> None:
        response = played.response
        await answer.begin(response.status, list(_headers(played).items()))
        for chunk in write_body(response):
            await answer.piece(self._back(chunk))
        if response.broken:
            answer.cut()
        else:
            await answer.end()

    def _back(self, chunk: bytes) -> bytes:
        try:
            return self._words.back(chunk.decode()).encode()
        except UnicodeDecodeError:
            return chunk


def _headers(played: ReplayResult) -> dict[str, str]:
    """Return the headers to send: a client does after a failure what it did then, but at once."""
    headers = dict(played.response.headers)
    if played.response.status < _FAILED:
        return headers
    if "retry-after" in headers:
        headers["retry-after"] = "0"
    headers.pop("retry-after-ms", None)
    return headers | (_AGAIN if played.again else _NEVER)


async def _refuse(error: CassetteMismatchError, answer: ResponseWriter) -> None:
    """Answer in the form that both OpenAI and Anthropic give their errors."""
    fault = {"type": "invalid_request_error", "code": error.code, "message": error.message}
    await answer.begin(
        _BAD_REQUEST, [("content-type", "application/json"), ("x-should-retry", "false")]
    )
    await answer.piece(dumps({"type": "error", "error": fault}).encode())
    await answer.end()
