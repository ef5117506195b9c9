"""Sessions: looking at them, their files, deleting them."""

from collections.abc import Iterator
from uuid import UUID

from celeriac import wire
from celeriac.client.files import Files
from celeriac.client.resources import given, pages
from celeriac.client.transport import API, Transport, segment

_PATH = f"{API}/sessions"


class Sessions:
    """`client.sessions`: the conversations of executions, which later ones can go on with."""

    def __init__(self, transport: Transport) -> None:
        """Send through `transport`."""
        self._transport = transport

    def get(self, session_id: str | UUID) -> wire.Session:
        """Return a session as it stands."""
        return self._transport.get(wire.Session, f"{_PATH}/{segment(session_id)}")

    def list(
        self,
        *,
        execution_id: str | UUID | None = None,
        runner: str | None = None,
        status: str | None = None,
    ) -> Iterator[wire.Session]:
        """Yield sessions, the newest first, reading page after page."""
        wanted = given(
            execution_id=execution_id and str(execution_id), runner=runner, status=status
        )
        return pages(self._transport, wire.Session, _PATH, wanted)

    def files(self, session_id: str | UUID) -> Files:
        """Return the files of its working directory: `.list()`, `.download(path, target)`."""
        return Files(self._transport, f"{_PATH}/{segment(session_id)}")

    def delete(self, session_id: str | UUID) -> None:
        """Remove its files and what is needed to go on with it."""
        self._transport.send("DELETE", f"{_PATH}/{segment(session_id)}")
