"""One recorded request, sent to its provider and reduced to what a cassette keeps."""

import asyncio
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import httpx2

from celeriac.agents.gateway.waiting import wait_of
from celeriac.agents.recording.server import HttpRequest, ResponseWriter
from celeriac.domain.cassettes import (
    MAX_BYTES,
    REQUEST_HEADERS,
    RESPONSE_HEADERS,
    JsonEvent,
    Request,
    Response,
    joined,
    read_body,
)
from celeriac.kit.json_types import dumps, loads

_BAD_GATEWAY = 502
_OWN_TO_A_HOP = frozenset(
    """accept-encoding connection content-encoding content-length expect host keep-alive
    proxy-authenticate proxy-connection te trailer transfer-encoding upgrade""".split()
)


class Fetch:
    """Asks the provider in a task of its own, so that the answer may end after its reader left."""

    def __init__(self, client: httpx2.AsyncClient, url: str, incoming: HttpRequest) -> None:
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

    async def forward(self, answer: ResponseWriter) -> None:
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


REMOVED = "[removed]"
WORKDIR = "/celeriac/workdir"
"""Stands in cassettes for the execution's working directory, which is another in each run."""

_SECRET_HEADERS = frozenset(
    {"api-key", "authorization", "cookie", "proxy-authorization", "x-api-key", "x-goog-api-key"}
)
_SECRET_PARAMETER = re.compile(r"(?<=[?&])(key|api[_-]?key|token|access_token)=[^&]*")
_SHORTEST_SECRET = 8
_ERRORS = 400
_NOT_PRINTABLE = re.compile(r"[^\x20-\x7e]")
_LONGEST_HEADER = 1_000


class SecretMasker:
    """What is put in the place of words that no cassette must hold, and back."""

    def __init__(self, secrets: Iterable[str], workdir: Path | None) -> None:
        """Remove `secrets`; put a common name in the place of `workdir`."""
        self._secrets = {secret for secret in secrets if len(secret) >= _SHORTEST_SECRET}
        self._workdir = None if workdir is None else str(workdir)

    def learn(self, incoming: HttpRequest) -> None:
        """Take the keys that a request is sent with for secrets."""
        for name, value in incoming.headers:
            if name in _SECRET_HEADERS:
                secret = value.split(" ", 1)[-1].strip()
                if len(secret) >= _SHORTEST_SECRET:
                    self._secrets.add(secret)

    def out(self, text: str) -> str:
        """Return `text` as cassettes hold it."""
        for secret in self._secrets:
            text = text.replace(secret, REMOVED)
        return text if self._workdir is None else text.replace(self._workdir, WORKDIR)

    def back(self, text: str) -> str:
        """Return a cassette's text as this run has it."""
        return text if self._workdir is None else text.replace(WORKDIR, self._workdir)


def request_of(incoming: HttpRequest, path: str, words: SecretMasker) -> Request:
    """Return what is kept of a request, whose `path` begins behind the provider's base URL."""
    return Request(
        method=incoming.method,
        path=_SECRET_PARAMETER.sub(rf"\1={REMOVED}", words.out(path)),
        headers=_kept(incoming.headers, REQUEST_HEADERS, words),
        **read_body(_scrubbed(incoming.body, words), incoming.header("content-type")),
    )


def response_of(
    status: int,
    headers: Sequence[tuple[str, str]],
    content: bytes,
    words: SecretMasker,
    *,
    broken: bool,
) -> Response:
    """Return what is kept of an answer."""
    kept = _kept(headers, RESPONSE_HEADERS, words)
    wait = wait_of(dict(headers), content) if status >= _ERRORS else None
    if wait is not None:
        # as a length of time: dates mean something else by the time of a replay
        kept.pop("retry-after", None)
        kept["retry-after-ms"] = str(round(wait * 1000))
    body = read_body(content, kept.get("content-type", ""))
    if "stream" in body:
        body["stream"] = tuple(_clean(item, words) for item in joined(body["stream"]))
    else:
        body = read_body(_scrubbed(content, words), kept.get("content-type", ""))
    return Response(status=status, headers=kept, broken=broken, **body)


def _clean(item: JsonEvent | str, words: SecretMasker) -> JsonEvent | str:
    if isinstance(item, str):
        return words.out(item)
    return item.model_copy(update={"data": loads(words.out(dumps(item.data)))})


def _scrubbed(content: bytes, words: SecretMasker) -> bytes:
    try:
        return words.out(content.decode()).encode()
    except UnicodeDecodeError:
        return content


def _kept(
    headers: Sequence[tuple[str, str]], known: frozenset[str], words: SecretMasker
) -> dict[str, str]:
    return {
        name: _NOT_PRINTABLE.sub("?", words.out(value))[:_LONGEST_HEADER]
        for name, value in headers
        if name in known
    }
