"""Cassettes: recorded model traffic, for running agents without their providers."""

import gzip
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

from celeriac import wire
from celeriac.client.transport import Resource, path


class Cassettes(Resource):
    """`client.cassettes`. One that an execution recorded has the execution's id."""

    def get(self, cassette_id: str | UUID) -> wire.Cassette:
        """Return a cassette without its content."""
        return self._transport.get(wire.Cassette, path("cassettes", cassette_id))

    def list(self) -> Iterator[wire.Cassette]:
        """Yield cassettes, the newest first."""
        return self._transport.pages(wire.Cassette, path("cassettes"))

    def content(self, cassette_id: str | UUID) -> str:
        """Return a cassette's text."""
        response = self._transport.send("GET", path("cassettes", cassette_id, "content"))
        return response.content.decode()

    def upload(self, content: str | Path, *, name: str | None = None) -> wire.Cassette:
        """Store a cassette, given as its text or its file. The same text is stored only once."""
        if isinstance(content, Path):
            name = name or content.stem
            content = content.read_text("utf-8")
        response = self._transport.send(
            "POST",
            path("cassettes"),
            content=gzip.compress(content.encode()),
            params={"name": name},
            headers={"Content-Type": "application/jsonl", "Content-Encoding": "gzip"},
        )
        return wire.Cassette.model_validate_json(response.content)

    def delete(self, cassette_id: str | UUID) -> None:
        """Delete a cassette."""
        self._transport.send("DELETE", path("cassettes", cassette_id))
