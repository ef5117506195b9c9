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
