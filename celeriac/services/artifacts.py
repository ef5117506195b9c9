"""The saved files of sessions and executions, for actors who may see these."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from uuid import UUID

from celeriac.db import artifacts
from celeriac.db.engine import Database
from celeriac.domain.accounts import Actor
from celeriac.domain.artifacts import FileSet, SavedFile, object_key
from celeriac.domain.errors import (
    FilesNotHereError,
    InvalidInputError,
    NotFoundError,
    ObjectMissingError,
)
from celeriac.kit.files import path_parts
from celeriac.services.executions.queries import Queries
from celeriac.services.files.objects import ObjectStore
from celeriac.services.sessions import Sessions


@dataclass(frozen=True, slots=True)
class Listing:
    """Some files of a saved directory, in the order of their paths."""

    files: Sequence[SavedFile]
    skipped: int
    """Number of entries of the whole directory that are left out."""
    more: bool
    """Whether files follow."""


@dataclass(frozen=True, slots=True)
class Files:
    """The saved files of a session or an execution, which `resource` names in errors."""

    database: Database
    objects: ObjectStore
    resource: str
    owner_id: UUID
    link_seconds: float | None

    def listed(self, *, after: str | None, limit: int) -> Listing:
        """Return the files after the path `after`.

        Raises FilesNotHereError, and InvalidInputError for the path.
        """
        if after is not None:
            _check(after, "after", "after")
        with self.database.transaction() as connection:
            found = self._set(artifacts.file_set(connection, self.owner_id))
            files = artifacts.files(connection, self.owner_id, after=after, limit=limit + 1)
        return Listing(files[:limit], found.skipped, more=len(files) > limit)

    def find(self, path: str) -> tuple[SavedFile, str]:
        """Return a file and the key of its content.

        Raises NotFoundError, FilesNotHereError, and InvalidInputError for the path.
        """
        _check(path, "path", "The path")
        with self.database.transaction() as connection:
            found = self._set(artifacts.file_set(connection, self.owner_id))
            file = artifacts.file(connection, self.owner_id, path)
        if file is None:
            raise NotFoundError("file", path)
        return file, object_key(found.workspace_id, file.digest)

    def read(self, key: str, start: int = 0, end: int | None = None) -> Iterator[bytes]:
        """Yield the bytes of a file's content.

        Raises FilesNotHereError where the store has lost it, and ObjectStoreError.
        """
        try:
            return self.objects.read(key, start, end)
        except ObjectMissingError as error:
            raise FilesNotHereError(self.resource, self.owner_id) from error

    def link(self, key: str) -> str | None:
        """Return an address at the object store from which a file can be downloaded for a while.

        None if there is none, or downloads are to go through the API.
        """
        if self.link_seconds is None:
            return None
        return self.objects.link(key, self.link_seconds)

    def _set(self, found: FileSet | None) -> FileSet:
        if found is None:
            raise FilesNotHereError(self.resource, self.owner_id)
        return found


def _check(path: str, field: str, name: str) -> None:
    try:
        path_parts(path)
        path.encode()
    except UnicodeEncodeError as error:
        raise InvalidInputError(f"{name} must be UTF-8.", field=field) from error
    except ValueError as error:
        raise InvalidInputError(f"{name} {error}.", field=field) from error


class Artifacts:
    """Finds files for actors. Safe to share between threads."""

    def __init__(
        self,
        database: Database,
        objects: ObjectStore,
        queries: Queries,
        sessions: Sessions,
        *,
        link_seconds: float | None = None,
    ) -> None:
        """With `link_seconds`, downloads are links to the store that are valid for so long."""
        self._link_seconds = link_seconds
        self._database = database
        self._objects = objects
        self._queries = queries
        self._sessions = sessions

    def of_session(self, actor: Actor, session_id: UUID) -> Files:
        """Return the files of a session. Raises NotFoundError."""
        self._sessions.get(actor, session_id)
        return self._files("session", session_id)

    def of_execution(self, actor: Actor, execution_id: UUID) -> Files:
        """Return the files of an execution's own directory. Raises NotFoundError."""
        self._queries.execution(actor, execution_id)
        return self._files("execution", execution_id)

    def _files(self, resource: str, owner_id: UUID) -> Files:
        return Files(self._database, self._objects, resource, owner_id, self._link_seconds)
