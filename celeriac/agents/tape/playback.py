"""Playing: requests are answered from a cassette, and nothing leaves the machine."""

from celeriac.agents.tape.requests import Words, request_of
from celeriac.agents.tape.server import Answer, Incoming
from celeriac.domain.cassette import Cassette, Player, Response, write_body
from celeriac.domain.errors import CassetteMismatchError
from celeriac.kit.jsontypes import dumps

_BAD_REQUEST = 400
_AT_ONCE = {"retry-after": "0", "retry-after-ms": "1"}
"""Recorded waits are not waited for again."""


class Playback:
    """Answers the requests of one attempt."""

    def __init__(self, cassette: Cassette, words: Words, *, attempt: int) -> None:
        """Play `cassette` to the attempt number `attempt`."""
        self._player = Player(cassette, attempt=attempt)
        self._words = words
        self.mismatch: CassetteMismatchError | None = None
        """The first request that had no answer."""

    async def handle(self, provider: str, path: str, incoming: Incoming, answer: Answer) -> None:
        """Answer a request as it was answered, or refuse it for good."""
        self._words.learn(incoming)
        try:
            request = request_of(incoming, path, self._words)
            response = self._player.answer(provider, request)
        except CassetteMismatchError as error:
            self.mismatch = self.mismatch or error
            await _refuse(error, answer)
        else:
            await self._play(response, answer)

    async def _play(self, response: Response, answer: Answer) -> None:
        headers = {name: _AT_ONCE.get(name, value) for name, value in response.headers.items()}
        if "retry-after" in headers:
            headers |= _AT_ONCE
        await answer.begin(response.status, list(headers.items()))
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


async def _refuse(error: CassetteMismatchError, answer: Answer) -> None:
    """Answer in the form that both OpenAI and Anthropic give their errors."""
    fault = {"type": "invalid_request_error", "code": error.code, "message": error.message}
    await answer.begin(
        _BAD_REQUEST, [("content-type", "application/json"), ("x-should-retry", "false")]
    )
    await answer.piece(dumps({"type": "error", "error": fault}).encode())
    await answer.end()
