"""Where agents work that have a repository."""

from pathlib import Path

from celeriac.domain.errors import WorkerMisconfiguredError
from celeriac.domain.repositories import Repository
from celeriac.services.ports import CHECKOUT, Runner


def no_checkout(_: Runner) -> Runner:
    """Raise WorkerMisconfiguredError: this process has no repositories."""
    raise WorkerMisconfiguredError(
        "This process makes no checkouts. Run the task without a repository.", field="repository"
    )


def workdir_of(base: Path, repository: Repository) -> Path:
    """Return the working directory of an execution whose files are in `base`."""
    return base / CHECKOUT / (repository.path or "")
