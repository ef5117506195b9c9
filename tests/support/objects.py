"""Object stores of tests, and what saves working directories in them."""

from pathlib import Path

from celeriac.adapters.object_store import ObstoreObjects, S3Options, open_store
from celeriac.db.engine import Database
from celeriac.domain.artifacts import ArtifactBounds
from celeriac.services.files.working import WorkingFiles

BOUNDS = ArtifactBounds(file_bytes=64 << 20, bytes=128 << 20, files=1_000)


def objects_in(directory: Path) -> ObstoreObjects:
    """Return a store in a directory below `directory`, which is made when it is used."""
    return open_store((directory / "objects").absolute().as_uri(), S3Options())


def files_in(database: Database, home: Path, bounds: ArtifactBounds = BOUNDS) -> WorkingFiles:
    """Return what saves directories of the home `home` in its own store."""
    return WorkingFiles(database, objects_in(home), home / "saved", bounds)
