"""One request on its way to its provider, and the answer as it comes back."""

import asyncio
from collections.abc import Sequence

import httpx2

from celeriac.agents.tape.server import Answer, Incoming
from celeriac.domain.cassette import MAX_BYTES
from celeriac.kit.jsontypes import dumps

_BAD_GATEWAY = 502
_OWN_TO_A_HOP = frozenset(
    """accept-encoding connection content-encoding content-length expect host keep-alive
    proxy-authenticate proxy-connection te trailer transfer-encoding upgrade""".split()
)


class Fetch:
    """Asks the provider in a task of its own, so that the answer may end after its reader left."""

    def __init__(self, client: httpx2.AsyncClient, url: str, incoming: Incoming) -> None:
        """Send `incoming` to `url`."""
        self.incoming = incoming
        self.status = 0
        self.headers: list[tuple[str, str]] = []
        self.body = bytearray()
        self.broken = False
        self._client = client
        self._url = url
        self._begun = asyncio.Event()
        self._pieces: asyncio.Queue[bytes | None] = asyncio.Queue()

    async def run(self) -> None:
        """Ask, and keep the answer; a provider that can't be reached becomes an answer of 502."""
        try:
            await self._ask()
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            if self.status:
                self.broken = True
            else:
                self._unreachable(error)
        finally:
            self._begun.set()
            self._pieces.put_nowait(None)

    async def forward(self, answer: Answer) -> None:
        """Send the answer on as it comes."""
        await self._begun.wait()
        if not self.status:
            answer.cut()
            return
        await answer.begin(self.status, self.headers)
        while (piece := await self._pieces.get()) is not None:
            await answer.piece(piece)
        if self.broken:
            answer.cut()
        else:
            await answer.end()

    async def _ask(self) -> None:
        headers = _without_own(self.incoming.headers)
        request = self._client.build_request(
            self.incoming.method,
            self._url,
            # what is kept should be readable
            headers=[*headers, ("accept-encoding", "identity")],
            content=self.incoming.body,
        )
        response = await self._client.send(request, stream=True)
        try:
            self._begin(
                response.status_code,
                [(n.decode().lower(), v.decode("latin-1")) for n, v in response.headers.raw],
            )
            async for piece in response.aiter_bytes():
                self._add(piece)
        finally:
            await response.aclose()

    def _begin(self, status: int, headers: list[tuple[str, str]]) -> None:
        self.status, self.headers = status, _without_own(headers)
        self._begun.set()

    def _add(self, piece: bytes) -> None:
        if len(self.body) <= MAX_BYTES:  # what is longer is not kept anyway
            self.body += piece
        self._pieces.put_nowait(piece)

    def _unreachable(self, error: Exception) -> None:
        message = f"The provider can't be reached: {str(error) or type(error).__name__}"
        self._begin(_BAD_GATEWAY, [("content-type", "application/json")])
        self._add(dumps({"error": {"message": message, "type": "unreachable"}}).encode())


def _without_own(headers: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """Leave out what concerns a single connection."""
    return [(name, value) for name, value in headers if name not in _OWN_TO_A_HOP]
