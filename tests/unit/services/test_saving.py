"""What is said of files that could not be saved."""

from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from celeriac.domain.artifacts import ArtifactOwner
from celeriac.domain.errors import ObjectStoreError
from celeriac.domain.executions.model import Lease
from celeriac.kit.files import Folder
from celeriac.logs.masks import Masker
from celeriac.services.executions.attempt import Attempt
from celeriac.services.executions.saving import save_files

pytestmark = pytest.mark.requirement("F25")

VALUE = "hunter2-hunter2"


class Refusing:
    """A store that repeats what it was sent."""

    def save(self, *_: Any) -> None:
        raise ObjectStoreError(f"The store does not want {VALUE}.")


def test_the_reason_is_masked(tmp_path: Path) -> None:
    attempt = Attempt(Lease(uuid4(), 1, uuid4()))
    attempt.masker = Masker([VALUE])
    attempt.folders[ArtifactOwner(uuid4(), is_session=True)] = Folder(tmp_path)
    files: Any = Refusing()

    save_files(files, attempt, uuid4(), Folder(tmp_path))

    (batch,) = attempt.last_batches()
    (event,) = batch.events
    assert "does not want ***." in event.data
    assert VALUE not in event.data


def test_a_directory_that_can_not_be_read_is_reported(tmp_path: Path) -> None:
    """An agent has put a link in its place: that is not the same as having no files."""
    attempt = Attempt(Lease(uuid4(), 1, uuid4()))
    attempt.has_workdir = True
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "work").symlink_to("elsewhere")

    class Reading:
        def save(self, *given: Any) -> None:
            given[-1].scan(most=1)

    files: Any = Reading()
    save_files(files, attempt, uuid4(), Folder(tmp_path, "work"))

    (batch,) = attempt.last_batches()
    (event,) = batch.events
    assert "could not be saved: Not a directory" in event.data
