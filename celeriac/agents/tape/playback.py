"""Playing: requests are answered from a cassette, and nothing leaves the machine."""

from celeriac.agents.tape.requests import Words, request_of
from celeriac.agents.tape.server import Answer, Incoming
from celeriac.domain.cassette import Played, Player, write_body
from celeriac.domain.errors import CassetteMismatchError
from celeriac.kit.jsontypes import dumps

_BAD_REQUEST = 400
_FAILED = 400
_AGAIN = {"retry-after": "0", "retry-after-ms": "1", "x-should-retry": "true"}
_NEVER = {"x-should-retry": "false"}


class Playback:
    """Answers the requests of one attempt."""

    def __init__(self, player: Player, words: Words) -> None:
        """Answer what `player` has answers to."""
        self._player = player
        self._words = words
        self.mismatch: CassetteMismatchError | None = None
        """The first request that had no answer."""

    async def handle(self, provider: str, path: str, incoming: Incoming, answer: Answer) -> None:
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

    async def _play(self, played: Played, answer: Answer) -> None:
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


def _headers(played: Played) -> dict[str, str]:
    """Return the headers to send: a client does after a failure what it did then, but at once."""
    headers = dict(played.response.headers)
    if played.response.status < _FAILED:
        return headers
    if "retry-after" in headers:
        headers["retry-after"] = "0"
    headers.pop("retry-after-ms", None)
    return headers | (_AGAIN if played.again else _NEVER)


async def _refuse(error: CassetteMismatchError, answer: Answer) -> None:
    """Answer in the form that both OpenAI and Anthropic give their errors."""
    fault = {"type": "invalid_request_error", "code": error.code, "message": error.message}
    await answer.begin(
        _BAD_REQUEST, [("content-type", "application/json"), ("x-should-retry", "false")]
    )
    await answer.piece(dumps({"type": "error", "error": fault}).encode())
    await answer.end()
