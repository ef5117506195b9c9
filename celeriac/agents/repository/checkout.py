"""Checkouts: the working directory of an agent, a repository of its own.

    <place>/checkout.json    what was checked out; only the worker writes it
    <top>/.git               a complete copy: nothing in it is shared with other attempts

The agent owns all of `top` and may do with it what it likes. `place` is not its own.
"""

import asyncio
import json
import os
from collections.abc import Coroutine
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self
from uuid import uuid4

from celeriac.agents.repository.git import Git
from celeriac.agents.repository.mirrors import Found
from celeriac.domain.errors import RepositoryRefusedError
from celeriac.domain.repositories import Repository
from celeriac.kit.files import remove_tree
from celeriac.kit.threads import FILES
from celeriac.kit.usage import UnmeasurableError, disk_of

_STATE = "checkout.json"
_CLONE_SECONDS = 600.0
_LOOK_SECONDS = 0.5
MOST_FILES = 1_000_000

LEFT = "The checkout, as the agent has left it,"
"""What is checked before it is worked in again."""


@dataclass(frozen=True, slots=True)
class CheckoutState:
    """What a directory holds.

    `prepared` says whether the commands of `setup` have succeeded in it, and `saved` whether the
    change of `attempt` is stored.
    """

    git: str
    ref: str | None
    sha: str
    execution_id: str
    attempt: int
    prepared: bool = False
    saved: bool = False

    @classmethod
    def read(cls, place: Path) -> Self | None:
        """Return the state of the checkout in `place`; None if there is no complete one."""
        with suppress(OSError, ValueError, TypeError):
            return cls(**json.loads((place / _STATE).read_text()))
        return None

    def write(self, place: Path) -> None:
        """Store the state, all or nothing."""
        draft = place / f"{_STATE}.{uuid4().hex}"
        draft.write_text(json.dumps(asdict(self)))
        draft.replace(place / _STATE)

    @staticmethod
    def forget(place: Path) -> None:
        """Say that there is no complete checkout."""
        (place / _STATE).unlink(missing_ok=True)


@dataclass(frozen=True, slots=True)
class Author:
    """Whose commits they are."""

    name: str
    email: str

    @property
    def environment(self) -> dict[str, str]:
        """The variables of git for a commit."""
        return {
            f"GIT_{role}_{part}": value
            for role in ("AUTHOR", "COMMITTER")
            for part, value in (("NAME", self.name), ("EMAIL", self.email))
        }


async def make_checkout(
    found: Found,
    repository: Repository,
    top: Path,
    *,
    branch: str,
    author: Author,
    most_bytes: int,
) -> None:
    """Make `top` a checkout of the commit, on `branch`; what was there is removed.

    It is complete when this returns, and belongs to the worker's user. Raises
    RepositoryUnavailableError, and RepositoryRefusedError for a path that the commit does not have,
    and for one of more than `most_bytes` or `MOST_FILES`, of which nothing is left.
    """
    await FILES.run(_empty, top)
    git = Git(protocol="file", seconds=_CLONE_SECONDS)
    await git.do(
        *("clone", "--quiet", "--local", "--no-hardlinks", "--no-checkout", "--template="),
        *("-c", f"user.name={author.name}", "-c", f"user.email={author.email}"),
        *("--", str(found.directory), str(top)),
        at=top.parent,
    )
    await git.do("remote", "set-url", "origin", repository.git, at=top)
    write = git.do("checkout", "--quiet", "--no-track", "-B", branch, found.sha, at=top)
    try:
        await _while_small(write, top, repository, most_bytes)
    except RepositoryRefusedError:
        await FILES.run(remove_tree, top)
        raise
    await check_directory(top, repository, f"The commit {found.sha} of {repository.git}")


async def _while_small(
    write: Coroutine[Any, Any, object], top: Path, repository: Repository, most_bytes: int
) -> None:
    """Write files until they are too many: a few objects can stand for any number."""
    task = asyncio.create_task(write, name=f"checkout {top}")
    try:
        while not task.done():
            await asyncio.wait({task}, timeout=_LOOK_SECONDS)
            await FILES.run(_check_size, top, repository, most_bytes)
        await task
    finally:
        if not task.done():
            task.cancel()
            await asyncio.wait({task})


def _check_size(top: Path, repository: Repository, most_bytes: int) -> None:
    try:
        use = disk_of([top], max_bytes=most_bytes, max_files=MOST_FILES)
    except UnmeasurableError as error:
        raise RepositoryRefusedError(
            f"The checkout of {repository.git} is refused: {error}."
        ) from None
    if use.size > most_bytes or use.files > MOST_FILES:
        raise RepositoryRefusedError(
            f"The checkout of {repository.git} has more than {most_bytes // 1024**2:,} MB, four "
            f"times CELERIAC_REPOSITORIES_FETCH_MB, or more than {MOST_FILES:,} files.",
            field="git",
        )


async def check_directory(top: Path, repository: Repository, what: str) -> None:
    """Raise RepositoryRefusedError unless `what`, in `top`, has the directory to work in."""
    if repository.path is not None and not await FILES.run(_is_inside, top, repository.path):
        raise RepositoryRefusedError(f"{what} has no directory {repository.path}.", field="path")


def _empty(top: Path) -> None:
    remove_tree(top)
    top.parent.mkdir(parents=True, exist_ok=True, mode=0o700)


def _is_inside(top: Path, path: str) -> bool:
    """Whether `path` is a directory in `top` that no link leads to."""
    place = top
    for part in path.split("/"):
        place = place / part
        if place.is_symlink() or not place.is_dir():
            return False
    return os.access(place, os.X_OK)
