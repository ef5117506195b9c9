"""The files of sessions and executions, for actors who may see these."""

from dataclasses import dataclass
from uuid import UUID

from celeriac.domain.accounts import Actor
from celeriac.domain.errors import FilesNotHereError, InvalidInputError, NotFoundError
from celeriac.kit.files import Folder, Listing, OpenFile
from celeriac.services.executions.queries import Queries
from celeriac.services.sessions import Sessions
from celeriac.services.storage_paths import StoragePaths


@dataclass(frozen=True, slots=True)
class Files:
    """The files of a session or an execution, which `resource` and `identifier` name in errors."""

    folder: Folder
    resource: str
    identifier: UUID

    def listed(self, *, after: str | None, limit: int) -> Listing:
        """Return the files after the path `after`.

        Raises FilesNotHereError, and InvalidInputError for the path.
        """
        try:
            return self.folder.files(after=after, limit=limit)
        except ValueError as error:
            raise InvalidInputError(f"after {error}.", field="after") from error
        except OSError as error:
            raise FilesNotHereError(self.resource, self.identifier) from error

    def open(self, path: str) -> OpenFile:
        """Open a file; the caller closes it.

        Raises NotFoundError, FilesNotHereError, and InvalidInputError for the path.
        """
        try:
            return self.folder.open(path)
        except ValueError as error:
            raise InvalidInputError(f"The path {error}.", field="path") from error
        except OSError as error:
            if not self.folder.exists():
                raise FilesNotHereError(self.resource, self.identifier) from error
            raise NotFoundError("file", path) from error


class Artifacts:
    """Finds files for actors. Safe to share between threads."""

    def __init__(self, queries: Queries, sessions: Sessions, places: StoragePaths) -> None:
        self._queries = queries
        self._sessions = sessions
        self._places = places

    def of_session(self, actor: Actor, session_id: UUID) -> Files:
        """Return the files of a session. Raises NotFoundError."""
        self._sessions.get(actor, session_id)
        return Files(self._places.session_files(session_id), "session", session_id)

    def of_execution(self, actor: Actor, execution_id: UUID) -> Files:
        """Return the files of an execution's own directory. Raises NotFoundError."""
        self._queries.execution(actor, execution_id)
        return Files(self._places.execution_files(execution_id), "execution", execution_id)
