"""The files of sessions and executions, for actors who may see these."""

from uuid import UUID

from celeriac.domain.accounts import Actor
from celeriac.domain.errors import FilesNotHereError, InvalidInputError, NotFoundError
from celeriac.kit.files import Folder, Listing, OpenFile
from celeriac.services.executions.queries import Queries
from celeriac.services.sessions import Sessions
from celeriac.services.storage_paths import StoragePaths


class Artifacts:
    """Lists and opens files. Safe to share between threads."""

    def __init__(self, queries: Queries, sessions: Sessions, places: StoragePaths) -> None:
        """Find files in `places`; `queries` and `sessions` say what an actor may see."""
        self._queries = queries
        self._sessions = sessions
        self._places = places

    def of_session(
        self, actor: Actor, session_id: UUID, *, after: str | None, limit: int
    ) -> Listing:
        """Return a session's files after the path `after`.

        Raises NotFoundError, FilesNotHereError, InvalidInputError.
        """
        self._sessions.get(actor, session_id)
        folder = self._places.session_files(session_id)
        return _listed(folder, "session", session_id, after=after, limit=limit)

    def of_execution(
        self, actor: Actor, execution_id: UUID, *, after: str | None, limit: int
    ) -> Listing:
        """Return the files of an execution's own directory; see above."""
        self._queries.execution(actor, execution_id)
        folder = self._places.execution_files(execution_id)
        return _listed(folder, "execution", execution_id, after=after, limit=limit)

    def open_of_session(self, actor: Actor, session_id: UUID, path: str) -> OpenFile:
        """Open one of a session's files; the caller closes it.

        Raises NotFoundError, FilesNotHereError, InvalidInputError.
        """
        self._sessions.get(actor, session_id)
        return _opened(self._places.session_files(session_id), "session", session_id, path)

    def open_of_execution(self, actor: Actor, execution_id: UUID, path: str) -> OpenFile:
        """Open one of the files of an execution's own directory; see above."""
        self._queries.execution(actor, execution_id)
        return _opened(self._places.execution_files(execution_id), "execution", execution_id, path)


def _listed(
    folder: Folder, resource: str, identifier: UUID, *, after: str | None, limit: int
) -> Listing:
    try:
        return folder.files(after=after, limit=limit)
    except ValueError as error:
        raise InvalidInputError(f"after {error}.", field="after") from error
    except OSError as error:
        raise FilesNotHereError(resource, identifier) from error


def _opened(folder: Folder, resource: str, identifier: UUID, path: str) -> OpenFile:
    try:
        return folder.open(path)
    except ValueError as error:
        raise InvalidInputError(f"The path {error}.", field="path") from error
    except OSError as error:
        if not folder.exists():
            raise FilesNotHereError(resource, identifier) from error
        raise NotFoundError("file", path) from error
