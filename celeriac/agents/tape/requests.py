"""From what goes over the wire to what a cassette keeps of it, without keys."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from celeriac.agents.gateway.waiting import wait_of
from celeriac.agents.tape.server import Incoming
from celeriac.domain.cassette import (
    REQUEST_HEADERS,
    RESPONSE_HEADERS,
    JsonEvent,
    Request,
    Response,
    joined,
    read_body,
)
from celeriac.kit.jsontypes import dumps, loads

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


class Words:
    """What is put in the place of words that no cassette must hold, and back."""

    def __init__(self, secrets: Iterable[str], workdir: Path | None) -> None:
        """Remove `secrets`; put a common name in the place of `workdir`."""
        self._secrets = {secret for secret in secrets if len(secret) >= _SHORTEST_SECRET}
        self._workdir = None if workdir is None else str(workdir)

    def learn(self, incoming: Incoming) -> None:
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


def request_of(incoming: Incoming, path: str, words: Words) -> Request:
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
    words: Words,
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


def _clean(item: JsonEvent | str, words: Words) -> JsonEvent | str:
    if isinstance(item, str):
        return words.out(item)
    return item.model_copy(update={"data": loads(words.out(dumps(item.data)))})


def _scrubbed(content: bytes, words: Words) -> bytes:
    try:
        return words.out(content.decode()).encode()
    except UnicodeDecodeError:
        return content


def _kept(
    headers: Sequence[tuple[str, str]], known: frozenset[str], words: Words
) -> dict[str, str]:
    return {
        name: _NOT_PRINTABLE.sub("?", words.out(value))[:_LONGEST_HEADER]
        for name, value in headers
        if name in known
    }
