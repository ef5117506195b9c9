"""Sessions and their files over HTTP."""

from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from urllib.parse import quote
from uuid import UUID, uuid4

from celeriac import wire
from celeriac.client.errors import ClientError
from celeriac.client.transport import Resource, Transport, given, path

_PAGE = 500


class Files:
    """The files at one path of the API."""

    def __init__(self, transport: Transport, owner: str) -> None:
        """`owner` is the path of their session or execution."""
        self._transport = transport
        self._path = f"{owner}/files"

    def list(self) -> Iterator[wire.File]:
        """Yield all files, in the order of their paths."""
        after: str | None = None
        while True:
            params = {"limit": _PAGE, "after": after}
            page = self._transport.get(wire.Files, self._path, params)
            yield from page.items
            after = page.next_after
            if after is None:
                return

    def download(self, path: str, target: Path) -> int:
        """Write a file to `target` and return its size in bytes.

        Creates the directory. `target` is created or replaced when the download is complete. Raises
        ClientError.
        """
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f".{target.name}.{uuid4().hex}")
        try:
            address = f"{self._path}/{quote(path, safe='/')}"
            with partial.open("xb") as file, self._transport.reading(address) as response:
                size = sum(map(file.write, response.iter_bytes()))
            partial.replace(target)
        finally:
            partial.unlink(missing_ok=True)
        return size


def local_path(directory: Path, path: str) -> Path:
    """Return the local path of a listed file below `directory`.

    Raises ClientError for a path that leads out of it.
    """
    parts = PurePosixPath(path).parts
    if not parts or path.startswith("/") or ".." in parts or "\0" in path:
        raise ClientError(
            f"The server lists a file with the invalid path {path!r}.", code="bad_path"
        )
    return directory.joinpath(*parts)


class Sessions(Resource):
    """`client.sessions`: conversations of executions, which later ones can continue."""

    def get(self, session_id: str | UUID) -> wire.Session:
        """Return a session."""
        return self._transport.get(wire.Session, path("sessions", session_id))

    def list(
        self,
        *,
        execution_id: str | UUID | None = None,
        runner: str | None = None,
        status: str | None = None,
    ) -> Iterator[wire.Session]:
        """Yield sessions, the newest first."""
        wanted = given(execution_id=execution_id, runner=runner, status=status)
        return self._transport.pages(wire.Session, path("sessions"), wanted)

    def files(self, session_id: str | UUID) -> Files:
        """Return the files of its working directory: `.list()`, `.download(path, target)`."""
        return Files(self._transport, path("sessions", session_id))

    def delete(self, session_id: str | UUID) -> None:
        """Delete the files of a session and what is needed to continue it."""
        self._transport.send("DELETE", path("sessions", session_id))
