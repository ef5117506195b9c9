"""Working directories of attempts: saved in the object store, and restored from it.

A save uploads what is new, and then replaces the list of entries in one transaction: whenever a
worker dies, the version before is whole. A marker on this machine says which version its copy of a
directory comes from; another one is replaced before an agent works in it.
"""

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from errno import ETIMEDOUT
from functools import partial
from hashlib import sha256
from mimetypes import guess_type
from pathlib import Path
from tempfile import TemporaryFile
from uuid import UUID, uuid4

import structlog

from celeriac.db import artifacts
from celeriac.db.engine import Database
from celeriac.domain.artifacts import (
    Artifact,
    ArtifactBounds,
    ArtifactOwner,
    EntryKind,
    FileSet,
    object_key,
)
from celeriac.domain.errors import LeaseLostError, ObjectMissingError, ObjectStoreError
from celeriac.domain.executions.model import Lease
from celeriac.kit import locks
from celeriac.kit.files import FileEntry, Folder, move_away, path_parts, remove_tree
from celeriac.kit.ids import uuid7
from celeriac.kit.threads import Threads
from celeriac.services.files.objects import ObjectStore
from celeriac.services.retrying import retry_while_unavailable

logger = structlog.get_logger(__name__)

_DATABASE_SECONDS = 60.0
_IN_MEMORY = 8 << 20
"""Files up to this size are read once; larger ones a second time, in parts, for their upload."""

_TRANSFERS = 8
_RESTORES = 4
_TRIES = 3
_OWNER_MAY = 0o700
_EPOCH = datetime.fromtimestamp(0, UTC)
_DAY = 86_400
_PLAIN = "application/octet-stream"
_COPY = "copy"
"""The version of a directory that was copied and not saved since."""

_LOCK_SECONDS = 30.0
_POLL_SECONDS = 0.02


class _ChangedError(Exception):
    """A file has changed while it was saved."""


@dataclass(frozen=True, slots=True)
class _Marker:
    """From which version this machine's copy of a directory comes."""

    version: str
    seen_ns: int
    """When the files were looked at, by the clock of their file system; later changes are new."""


@dataclass(frozen=True, slots=True)
class _Plan:
    """What a save does."""

    version: UUID
    skipped: int
    changed: Sequence[Artifact]
    """Entries that are new or different."""
    fresh: Mapping[bytes, Artifact]
    """By their digest, the changed files of which the store may not have the content."""
    gone: Sequence[str]
    """Paths without an entry now."""
    unnamed: frozenset[bytes]
    """Digests that entries of this directory name no longer."""


class WorkingFiles:
    """Saves and restores working directories. Its methods block; thread-safe."""

    def __init__(
        self, database: Database, objects: ObjectStore, markers: Path, bounds: ArtifactBounds
    ) -> None:
        """`markers` is a directory of this machine, on the file system of the directories."""
        self._database = database
        self._objects = objects
        self._markers = markers
        self._bounds = bounds
        self._transfers = Threads("transfers", _TRANSFERS)
        self.threads = Threads("restores", _RESTORES, may_wait=True)
        """For coroutines that restore."""

    def restore(self, owner_id: UUID, directory: Path, *, copy_of: UUID | None = None) -> None:
        """Make `directory` what was saved last of it, unless this machine has that.

        With `copy_of` it becomes a copy of another owner's. Without a saved version nothing
        changes, nor if another process of this machine has restored it meanwhile: a later attempt
        may work in it. Raises ObjectStoreError, ObjectMissingError and DatabaseUnavailableError.
        """
        found, entries = self._saved(copy_of or owner_id)
        if found is None:
            return
        marker = self._marker(owner_id)
        if copy_of is None and directory.is_dir() and marker.version == str(found.version):
            return
        beside, old = (self._markers / f"{owner_id}.{uuid4().hex}" for _ in range(2))
        try:
            self._markers.mkdir(mode=_OWNER_MAY, parents=True, exist_ok=True)
            self._write_tree(found.workspace_id, entries, beside)
            with self._alone():
                if directory.is_dir() and self._marker(owner_id) != marker:
                    return
                move_away(directory, old)
                directory.parent.mkdir(mode=_OWNER_MAY, parents=True, exist_ok=True)
                beside.rename(directory)
                self._mark(owner_id, _COPY if copy_of else found.version, self._now())
        except OSError as error:
            raise ObjectStoreError(
                "The files of the working directory can't be restored on this machine: "
                f"{error.strerror or error}."
            ) from error
        finally:
            for each in (beside, old):
                remove_tree(each)
        logger.info("files.restored", owner_id=owner_id, entries=len(entries))

    def save(self, lease: Lease, workspace_id: UUID, owner: ArtifactOwner, folder: Folder) -> None:
        """Save what is in `folder` for the attempt of `lease`.

        Raises LeaseLostError, ObjectStoreError and DatabaseUnavailableError, and OSError for a
        directory that can't be read; the version before then stays. Nothing is stored where nothing
        has changed.
        """
        for _ in range(_TRIES):
            began = self._now()
            found, known = self._saved(owner.id)
            plan = self._planned(owner, folder, found, {each.path: each for each in known})
            if plan is None:
                if found is not None and self._marker(owner.id).version == str(found.version):
                    self._mark(owner.id, found.version, began)
                return
            try:
                uploaded = self._upload(workspace_id, folder, plan.fresh)
            except _ChangedError:
                continue
            store = partial(self._store, lease, workspace_id, owner, plan)
            if retry_while_unavailable(store, seconds=_DATABASE_SECONDS):
                self._mark(owner.id, plan.version, began)
                logger.info(
                    "files.saved",
                    owner_id=owner.id,
                    changed=len(plan.changed),
                    removed=len(plan.gone),
                    uploaded=uploaded,
                    skipped=plan.skipped,
                )
                return
        raise ObjectStoreError(
            "The files of the working directory change while they are saved: a process that the "
            "agent has started still writes to them."
        )

    def _saved(self, owner_id: UUID) -> tuple[FileSet | None, list[Artifact]]:
        def read() -> tuple[FileSet | None, list[Artifact]]:
            with self._database.transaction() as connection:
                found = artifacts.file_set(connection, owner_id)
                return found, artifacts.entries(connection, owner_id) if found else []

        return retry_while_unavailable(read, seconds=_DATABASE_SECONDS)

    # saving

    def _planned(
        self,
        owner: ArtifactOwner,
        folder: Folder,
        found: FileSet | None,
        known: Mapping[str, Artifact],
    ) -> _Plan | None:
        """Return what is to be saved, or None if that is there already."""
        try:
            scan = folder.scan(most=self._bounds.files)
        except FileNotFoundError:
            return None  # the agent has removed its directory
        marker = self._marker(owner.id)
        ours = found is not None and marker.version == str(found.version)
        skipped, left, now = scan.skipped, self._bounds.bytes, dict[str, Artifact]()
        for entry in scan.entries:
            most = min(self._bounds.file_bytes, left)
            old = known.get(entry.path) if ours and entry.changed_ns < marker.seen_ns else None
            artifact = None
            if entry.size <= most:
                artifact = _unread(entry, old) or _read(folder, entry, most)
            if artifact is None:
                skipped += 1
            else:
                left -= artifact.size
                now[entry.path] = artifact
                skipped += artifact.kind is EntryKind.LINK
        changed = [each for each in now.values() if _differs(each, known.get(each.path))]
        gone = [path for path in known if path not in now]
        if not changed and not gone and (found is None or found.skipped == skipped):
            return None
        named = {each.digest for each in now.values()}
        replaced = (known.get(each.path) for each in changed)
        before = {each.digest for each in (*(known[path] for path in gone), *replaced) if each}
        fresh = {each.digest: each for each in changed if each.digest is not None}
        unnamed = frozenset(each for each in before - named if each is not None)
        return _Plan(uuid7(), skipped, changed, fresh, gone, unnamed)

    def _upload(self, workspace_id: UUID, folder: Folder, fresh: Mapping[bytes, Artifact]) -> int:
        """Upload what the store does not have; return how many objects those are."""
        if not fresh:
            return 0
        sizes = {digest: each.size for digest, each in fresh.items()}

        def claim() -> set[bytes]:
            with self._database.transaction() as connection:
                return artifacts.claim_objects(connection, workspace_id, sizes)

        missing = retry_while_unavailable(claim, seconds=_DATABASE_SECONDS)

        def upload(digest: bytes) -> None:
            body = _content(folder, fresh[digest])
            self._objects.put(object_key(workspace_id, digest), body)

        uploads = [self._transfers.submit(upload, each) for each in sorted(missing)]
        try:
            for each in uploads:
                each.result()
        finally:
            for each in uploads:
                each.cancel()
        return len(uploads)

    def _store(self, lease: Lease, workspace_id: UUID, owner: ArtifactOwner, plan: _Plan) -> bool:
        """Store the entries; False if an object was deleted before it could be named."""
        with self._database.transaction() as connection:
            held = artifacts.save_set(
                connection, lease, owner, version=plan.version, skipped=plan.skipped
            )
            if held is None:
                raise LeaseLostError("This worker no longer owns the attempt.")
            named = artifacts.name_objects(connection, workspace_id, plan.fresh, plan.unnamed)
            if not named:
                connection.rollback()
                return False
            artifacts.change_entries(
                connection,
                owner.id,
                workspace_id=workspace_id,
                execution_id=lease.execution_id,
                changed=plan.changed,
                gone=plan.gone,
            )
        return True

    # restoring

    def _write_tree(self, workspace_id: UUID, entries: Sequence[Artifact], top: Path) -> None:
        """Write entries into a new directory that nobody else may write to; links last."""
        top.mkdir(mode=_OWNER_MAY)
        places = [(each, top.joinpath(*path_parts(each.path))) for each in entries]
        for entry, path in places:
            directory = path if entry.kind is EntryKind.DIRECTORY else path.parent
            directory.mkdir(parents=True, exist_ok=True)
        files = [pair for pair in places if pair[0].kind is EntryKind.FILE]
        downloads = [
            self._transfers.submit(self._write_file, workspace_id, *each) for each in files
        ]
        try:
            for each in downloads:
                each.result()
        finally:
            for each in downloads:
                each.cancel()
        for entry, path in places:
            if entry.target is not None:
                path.symlink_to(entry.target)

    def _write_file(self, workspace_id: UUID, entry: Artifact, path: Path) -> None:
        assert entry.digest is not None
        digest = sha256()
        with path.open("xb") as file:
            for chunk in self._objects.read(object_key(workspace_id, entry.digest)):
                digest.update(chunk)
                file.write(chunk)
            os.fchmod(file.fileno(), entry.mode)
        if digest.digest() != entry.digest:
            raise ObjectMissingError(
                f"The object store has other bytes than were saved of the file {entry.path}."
            )
        since = entry.modified_at - _EPOCH
        seconds = since.days * _DAY + since.seconds
        at = (seconds * 1_000_000 + since.microseconds) * 1_000
        os.utime(path, ns=(at, at))

    # markers

    def _marker(self, owner_id: UUID) -> _Marker:
        try:
            version, _, seen = (self._markers / str(owner_id)).read_text().partition(" ")
            return _Marker(version, int(seen or 0))
        except (OSError, ValueError):
            return _Marker("", 0)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Keep other processes of this machine from replacing directories. Raises OSError."""
        until = time.monotonic() + _LOCK_SECONDS
        while (place := locks.lock(self._markers)) is None:
            if time.monotonic() > until:
                raise TimeoutError(ETIMEDOUT, "another worker replaces directories")
            time.sleep(_POLL_SECONDS)
        try:
            yield
        finally:
            locks.unlock(place)

    def _mark(self, owner_id: UUID, version: UUID | str, seen_ns: int) -> None:
        """Note which version this machine has; without the note it is restored once more."""
        with suppress(OSError):
            self._markers.mkdir(mode=_OWNER_MAY, parents=True, exist_ok=True)
            (self._markers / str(owner_id)).write_text(f"{version} {seen_ns}")

    def _now(self) -> int:
        """Return the time of the file system, whose clock may be another one; 0 if it has none."""
        with suppress(OSError):
            self._markers.mkdir(mode=_OWNER_MAY, parents=True, exist_ok=True)
            with TemporaryFile(dir=self._markers) as file:
                return os.fstat(file.fileno()).st_ctime_ns
        return 0


def _unread(entry: FileEntry, old: Artifact | None) -> Artifact | None:
    """Return an entry whose content need not be read, or None."""
    if entry.is_directory or entry.target is not None:
        kind = EntryKind.DIRECTORY if entry.is_directory else EntryKind.LINK
        return Artifact(entry.path, kind, 0, entry.mode, entry.modified_at, target=entry.target)
    if old is None or (old.size, old.modified_at) != (entry.size, entry.modified_at):
        return None
    return replace(old, mode=entry.mode) if old.kind is EntryKind.FILE else None


def _read(folder: Folder, entry: FileEntry, most: int) -> Artifact | None:
    """Return a file with its digest, or None if it is gone, closed, or has grown past `most`."""
    digest, size = sha256(), 0
    try:
        opened = folder.open(entry.path)
        if opened.size > most:
            opened.file.close()
            return None
        for chunk in opened.chunks():
            digest.update(chunk)
            size += len(chunk)
    except (OSError, ValueError):
        return None
    return Artifact(
        entry.path,
        EntryKind.FILE,
        size,
        entry.mode,
        opened.modified_at,
        digest.digest(),
        media_type=guess_type(entry.path)[0] or _PLAIN,
    )


def _differs(artifact: Artifact, old: Artifact | None) -> bool:
    if old is None:
        return True
    if artifact.kind is EntryKind.DIRECTORY:
        return old.kind is not EntryKind.DIRECTORY  # its time changes with each restore
    if artifact.kind is EntryKind.LINK:
        return (old.kind, old.target) != (artifact.kind, artifact.target)
    mine = (artifact.kind, artifact.digest, artifact.mode, artifact.modified_at)
    return mine != (old.kind, old.digest, old.mode, old.modified_at)


def _content(folder: Folder, artifact: Artifact) -> bytes | Iterator[bytes]:
    """Return the content of a file. Raises _ChangedError, at its end at the latest."""
    chunks = _checked(folder, artifact)
    return b"".join(chunks) if artifact.size <= _IN_MEMORY else chunks


def _checked(folder: Folder, artifact: Artifact) -> Iterator[bytes]:
    digest = sha256()
    try:
        opened = folder.open(artifact.path)
        if opened.size != artifact.size:
            opened.file.close()
            raise _ChangedError
        for chunk in opened.chunks():
            digest.update(chunk)
            yield chunk
    except OSError as error:
        raise _ChangedError from error
    if digest.digest() != artifact.digest:
        raise _ChangedError
