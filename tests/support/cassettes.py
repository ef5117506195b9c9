"""Cassettes made by hand."""

from typing import Any

from celeriac.domain.cassettes import Cassette, Header, Interaction, Request, Response


def asked(prompt: str, *, path: str = "/chat/completions", **more: Any) -> Request:
    """Return a request as language models get them."""
    body = {"model": "m", "messages": [{"role": "user", "content": prompt}], **more}
    return Request(method="POST", path=path, body=body)


def recorded(prompt: str, said: str, *, attempt: int = 1, provider: str = "test") -> Interaction:
    """Return a request with its answer."""
    return Interaction(
        attempt=attempt,
        provider=provider,
        request=asked(prompt),
        response=Response(status=200, body={"said": said}),
    )


def cassette(*interactions: Interaction, complete: bool = True) -> Cassette:
    """Return a cassette of these."""
    return Cassette(Header(celeriac_cassette=1, complete=complete), interactions)
