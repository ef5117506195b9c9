"""Cassettes: recorded model traffic, for running agents without their providers."""

import gzip
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

from celeriac import wire
from celeriac.client.resources import pages
from celeriac.client.transport import API, Transport, segment

_PATH = f"{API}/cassettes"


class Cassettes:
    """`client.cassettes`. One that an execution recorded has the execution's id."""

    def __init__(self, transport: Transport) -> None:
        """Send through `transport`."""
        self._transport = transport

    def get(self, cassette_id: str | UUID) -> wire.Cassette:
        """Return what is known of a cassette."""
        return self._transport.get(wire.Cassette, f"{_PATH}/{segment(cassette_id)}")

    def list(self) -> Iterator[wire.Cassette]:
        """Yield cassettes, the newest first, reading page after page."""
        return pages(self._transport, wire.Cassette, _PATH)

    def content(self, cassette_id: str | UUID) -> str:
        """Return a cassette's text."""
        response = self._transport.send("GET", f"{_PATH}/{segment(cassette_id)}/content")
        return response.content.decode()

    def upload(self, content: str | Path, *, name: str | None = None) -> wire.Cassette:
        """Store the text of a cassette, or the file that holds it; the same one only once."""
        if isinstance(content, Path):
            name = name or content.stem
            content = content.read_text("utf-8")
        response = self._transport.send(
            "POST",
            _PATH,
            content=gzip.compress(content.encode()),
            params={"name": name},
            headers={"Content-Type": "application/jsonl", "Content-Encoding": "gzip"},
        )
        return wire.Cassette.model_validate_json(response.content)

    def delete(self, cassette_id: str | UUID) -> None:
        """Delete a cassette."""
        self._transport.send("DELETE", f"{_PATH}/{segment(cassette_id)}")
