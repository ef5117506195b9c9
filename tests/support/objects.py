"""Object stores of tests, and what saves working directories in them."""

from pathlib import Path

from celeriac.adapters.object_store import ObstoreObjects, S3Options, open_store
from celeriac.db.engine import Database
from celeriac.domain.artifacts import ArtifactBounds, ArtifactOwner
from celeriac.domain.executions.model import Claim
from celeriac.kit.files import Folder
from celeriac.services.files.working import WorkingFiles
from tests.support.core import Core
from tests.support.waiting import wait_until

BOUNDS = ArtifactBounds(file_bytes=64 << 20, bytes=128 << 20, files=1_000)


def objects_in(directory: Path) -> ObstoreObjects:
    """Return a store in a directory below `directory`, which is made when it is used."""
    return open_store((directory / "objects").absolute().as_uri(), S3Options())


def files_in(database: Database, home: Path, bounds: ArtifactBounds = BOUNDS) -> WorkingFiles:
    """Return what saves directories of the home `home` in its own store."""
    return WorkingFiles(database, objects_in(home), home / "saved", bounds)


class Machine:
    """A worker's machine: its own home, and the store that it shares with the others."""

    def __init__(self, core: Core, home: Path, objects: ObstoreObjects) -> None:
        self.work = home / "work"
        self.work.mkdir(parents=True)
        self.files = WorkingFiles(core.database, objects, home / "saved", BOUNDS)

    def save(self, claim: Claim) -> None:
        folder = Folder(self.work, str(claim.lease.execution_id))
        owner = ArtifactOwner(claim.lease.execution_id, is_session=False)
        self.files.save(claim.lease, claim.workspace_id, owner, folder)

    def restore(self, claim: Claim) -> Path:
        self.files.restore(claim.lease.execution_id, self.directory(claim))
        return self.directory(claim)

    def directory(self, claim: Claim) -> Path:
        return self.work / str(claim.lease.execution_id)

    def settle(self, claim: Claim) -> None:
        """Wait until the clock of the file system has moved on from the last change."""
        last = max(each.stat().st_ctime_ns for each in self.directory(claim).iterdir())
        wait_until(lambda: self.files._now() > last, "the clock moves on")


def written(directory: Path, **contents: str) -> None:
    directory.mkdir(exist_ok=True)
    for name, content in contents.items():
        (directory / name).write_text(content)
