"""Artifacts: the files of working directories, as they are saved in the object store."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from uuid import UUID


class EntryKind(StrEnum):
    """What an entry of a working directory is."""

    FILE = "file"
    LINK = "link"
    """A symbolic link; it is restored, but neither listed nor downloaded."""
    DIRECTORY = "directory"
    """An empty directory; others are made for their files."""


@dataclass(frozen=True, slots=True)
class Artifact:
    """An entry of a saved working directory."""

    path: str
    """Relative, with slashes."""
    kind: EntryKind
    size: int
    """Bytes; 0 for what is no file."""
    mode: int
    """Permission bits."""
    modified_at: datetime
    digest: bytes | None = None
    """SHA-256 of a file's content."""
    target: str | None = None
    """Where a link leads."""
    media_type: str = "application/octet-stream"
    """Guessed from the name; downloads are never sent as it."""


@dataclass(frozen=True, slots=True)
class SavedFile:
    """A file of a saved working directory, as it is listed."""

    path: str
    size: int
    """Bytes."""
    media_type: str
    digest: bytes
    execution_id: UUID
    """The execution that saved this version of it."""
    modified_at: datetime
    created_at: datetime
    """When this version was saved."""


@dataclass(frozen=True, slots=True)
class FileSet:
    """A saved working directory, of a session or of an execution, whose id `owner_id` is."""

    owner_id: UUID
    workspace_id: UUID
    execution_id: UUID
    """The execution that saved it last."""
    version: UUID
    """Another one with each change."""
    skipped: int
    """Number of entries left out: pipes, devices, odd names, and what exceeds the bounds."""
    saved_at: datetime


@dataclass(frozen=True, slots=True)
class ArtifactBounds:
    """What is saved of one working directory at most; further files are left out."""

    file_bytes: int
    """Of one file."""
    bytes: int
    """Of all files together."""
    files: int


@dataclass(frozen=True, slots=True)
class ArtifactOwner:
    """Whose working directory it is: the id of a session or of an execution."""

    id: UUID
    is_session: bool


def object_key(workspace_id: UUID, digest: bytes) -> str:
    """Return the key of an object: of each workspace its own, so no digest leads to another's."""
    name = digest.hex()
    return f"{workspace_id}/sha256/{name[:2]}/{name}"
