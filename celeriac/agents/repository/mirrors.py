"""Fetched repositories: one bare repository for each URL and workspace, shared by its attempts.

    <home>/repositories/<key>/lock          locked alone to fetch, and shared to copy
    <home>/repositories/<key>/fetched       its time is that of the last fetch
    <home>/repositories/<key>/mirror.git    branches and tags; `refs/celeriac/HEAD` is the default

Only the worker's user has access to it. Agents get copies, so that nothing they do changes what
others get. Each workspace has keys of its own, and so has each secret: a workspace that may not
fetch a repository does not get what another one has fetched.
"""

import asyncio
import fcntl
import os
import shutil
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from hashlib import sha256
from itertools import takewhile
from pathlib import Path
from uuid import UUID

import structlog

from celeriac.agents.repository.addresses import pinned
from celeriac.agents.repository.git import OLDEST_GIT, Git, can_pin
from celeriac.agents.repository.program import Ended
from celeriac.domain.errors import (
    RepositoryRefusedError,
    RepositoryUnavailableError,
    WorkerMisconfiguredError,
)
from celeriac.domain.repositories import Repository, RepositoryAccess, is_sha
from celeriac.kit import locks
from celeriac.kit.files import remove_tree
from celeriac.kit.outbound import OutboundGuard
from celeriac.kit.processes import ResourceLimits
from celeriac.kit.threads import FILES

logger = structlog.get_logger(__name__)

_MEGABYTE = 1024 * 1024
_DAY = 86_400.0
_LOCK = "lock"
_FETCHED = "fetched"
_MIRROR = "mirror.git"
_DEFAULT = "refs/celeriac/HEAD"
_POLL_SECONDS = 0.05
_PRUNE_SECONDS = 3_600.0
_MOST_REMOVED = 20
_MOST_PACKS = 200
"""Each fetch adds a pack; a repository with so many is fetched anew."""

_SHOWN_LINES = 3
_ASKED = ("could not read Username", "Authentication failed", "could not read Password")
_ADVICE = "Please make sure you have the correct access rights"

_REFSPECS = (
    "+refs/heads/*:refs/heads/*",
    "+refs/tags/*:refs/tags/*",
    f"+HEAD:{_DEFAULT}",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class MirrorLimits:
    """Bounds of fetching and of what is kept."""

    fetch_seconds: float = 300.0
    fetch_bytes: int = 2_048 * _MEGABYTE
    cache_bytes: int = 20_000 * _MEGABYTE
    cache_seconds: float = 30 * _DAY


@dataclass(frozen=True, slots=True)
class Found:
    """A fetched repository and the commit that a ref names; valid while its block runs."""

    directory: Path
    sha: str


@dataclass(slots=True)
class _Need:
    """What an execution needs of a repository: a commit, or all that was there at a time."""

    wanted: str | None
    asked: float
    _looked: float | None = None
    """The time of the fetch after which the commit was missing."""

    async def is_met(self, mirror: Path) -> bool:
        """Whether the repository has the commit, or was fetched since it was asked for."""
        try:
            fetched = (mirror.parent / _FETCHED).stat().st_mtime
        except FileNotFoundError:
            return False
        if fetched == self._looked or not (mirror / "HEAD").is_file():
            return False
        if self.wanted is None:
            return fetched > self.asked
        if await _has(mirror, self.wanted):
            return True
        self._looked = fetched
        return False


@dataclass(frozen=True, slots=True)
class Mirrors:
    """The fetched repositories of a home. Safe to share between threads and processes."""

    root: Path
    guard: OutboundGuard = field(default_factory=OutboundGuard)
    limits: MirrorLimits = MirrorLimits()

    @asynccontextmanager
    async def holding(
        self,
        repository: Repository,
        workspace_id: UUID | None,
        sha: str | None,
        access: RepositoryAccess | None = None,
    ) -> AsyncIterator[Found]:
        """Give the block the fetched repository, which stays as it is while it runs.

        It is fetched unless it has `sha`, or was fetched since this was called. Raises
        RepositoryUnavailableError, and RepositoryRefusedError for a ref that it does not have and
        an address that is not public.
        """
        wanted = sha or (repository.ref if repository.ref and is_sha(repository.ref) else None)
        need = _Need(wanted, time.time())
        place = self.root / _key(repository.git, workspace_id, access)
        await FILES.run(_make, self.root, place)
        try:
            async with self._locked(place, need) as (lock, is_shared):
                mirror = place / _MIRROR
                if not is_shared:
                    await self._complete(repository, mirror, need, access)
                    await _share(lock)
                found = Found(mirror, await self._resolved(repository, mirror, wanted))
                os.utime(place)
                yield found
        finally:
            await FILES.run(self._prune_quietly, place)

    async def _complete(
        self,
        repository: Repository,
        mirror: Path,
        need: _Need,
        access: RepositoryAccess | None,
    ) -> None:
        """Fetch what is needed into a repository that is locked alone, unless it is there."""
        if await need.is_met(mirror):
            return
        if not (mirror / "HEAD").is_file():
            await FILES.run(remove_tree, mirror)
            await Git().do(
                "init", "--quiet", "--bare", "--template=", str(mirror), at=mirror.parent
            )
        wanted = need.wanted
        git = await self.remote(repository, mirror, access)
        await self._fetched(git, repository, mirror, *_REFSPECS)
        if wanted is not None and not await _has(mirror, wanted):
            # a commit of no branch; not every server gives one out
            with suppress(RepositoryUnavailableError):
                await self._fetched(
                    git, repository, mirror, f"+{wanted}:refs/celeriac/{wanted}", prune=False
                )
        (mirror.parent / _FETCHED).touch(mode=0o600)

    async def remote(
        self, repository: Repository, mirror: Path, access: RepositoryAccess | None
    ) -> Git:
        """Return a git that talks to the server of a repository, and to nothing else.

        Raises RepositoryRefusedError, RepositoryUnavailableError, and WorkerMisconfiguredError for
        a git that is too old.
        """
        where = await pinned(repository.git, self.guard)
        if where.protocol == "https":
            version = (await Git().do("version", at=mirror)).text
            if not can_pin(version):
                raise WorkerMisconfiguredError(
                    f"{version} can't be bound to the address of a host: install git {OLDEST_GIT} "
                    "or later on this worker.",
                    field="repository",
                )
        # git asks whose a directory is; an administrator has allowed those of `file://`
        trust = mirror.parent / "gitconfig"
        trust.write_text("[safe]\n\tdirectory = *\n")
        return Git(
            settings=where.settings,
            environment={**where.environment, "GIT_CONFIG_GLOBAL": str(trust)},
            protocol=where.protocol,
            limits=ResourceLimits(file_bytes=self.limits.fetch_bytes),
            seconds=self.limits.fetch_seconds,
            access=access if where.protocol == "https" else None,
            server=where.server,
        )

    async def _fetched(
        self, git: Git, repository: Repository, mirror: Path, *refspecs: str, prune: bool = True
    ) -> None:
        done = await git.run(
            *("fetch", "--quiet", "--force", "--no-tags", "--no-write-fetch-head"),
            *(("--prune",) if prune else ()),
            *("--no-recurse-submodules", "--no-auto-gc", "--", repository.git, *refspecs),
            at=mirror,
        )
        if done.code:
            await FILES.run(_remove_partial, mirror)
            reason = credentials_fault(done, repository) or said_by(done)
            too_large = (f"signal {signal.SIGXFSZ:d}", "File too large")
            if any(words in line for line in done.said for words in too_large):
                most = self.limits.fetch_bytes // _MEGABYTE
                reason = f"it has more than {most} MB (CELERIAC_REPOSITORIES_FETCH_MB)"
            raise RepositoryUnavailableError(
                f"The repository {repository.git} can't be fetched: {reason}"
            )

    async def _resolved(self, repository: Repository, mirror: Path, wanted: str | None) -> str:
        """Return the commit; a branch comes before a tag of the same name."""
        if wanted is not None:
            if await _has(mirror, wanted):
                return wanted
            raise _no_ref(repository, wanted)
        ref = repository.ref
        names = (_DEFAULT,) if ref is None else (f"refs/heads/{ref}", f"refs/tags/{ref}")
        for name in names:
            done = await Git().run(
                *("rev-parse", "--quiet", "--verify", "--end-of-options", f"{name}^{{commit}}"),
                at=mirror,
            )
            if not done.code and is_sha(done.text):
                return done.text
        raise _no_ref(repository, ref or "HEAD")

    @asynccontextmanager
    async def _locked(self, place: Path, need: _Need) -> AsyncIterator[tuple[int, bool]]:
        """Hold the lock of a repository: shared, if the need is met, else alone.

        Yields its descriptor, and whether it is shared.
        """
        until = time.monotonic() + self.limits.fetch_seconds
        while (taken := await _taken(place, need)) is None:
            if time.monotonic() > until:
                raise RepositoryUnavailableError(
                    "Other executions have used the same repository, so that it could not be "
                    f"fetched, for more than {self.limits.fetch_seconds:g} s."
                )
            await asyncio.sleep(_POLL_SECONDS)
            await FILES.run(_make, self.root, place)
        try:
            yield taken
        finally:
            locks.unlock(taken[0])

    def _prune_quietly(self, used: Path) -> None:
        """Do what `prune` does. That it fails is no fault of the execution that was here last."""
        try:
            self.prune(used)
        except OSError as error:
            logger.warning("repositories.not_pruned", error=str(error))

    def prune(self, used: Path) -> int:
        """Remove repositories that were not used for long, and the oldest above the size limit.

        At most once an hour, and at most a few. Those in use stay. Returns how many are removed.
        Raises OSError.
        """
        stamp = self.root / "pruned"
        with suppress(FileNotFoundError):
            if time.time() - stamp.stat().st_mtime < _PRUNE_SECONDS:
                return 0
        stamp.touch(mode=0o600)
        used_at = _used_at(self.root)
        sizes = {each: _size(each) for each in used_at}
        total, oldest = sum(sizes.values()), time.time() - self.limits.cache_seconds
        removed = 0
        for place in sorted(used_at, key=used_at.__getitem__):
            old = used_at[place] < oldest
            full = total > self.limits.cache_bytes and place != used
            if (
                removed < _MOST_REMOVED
                and (old or full or _has_many_packs(place))
                and _removed(place)
            ):
                total -= sizes[place]
                removed += 1
        if removed:
            logger.info("repositories.removed", count=removed)
        return removed


def _key(url: str, workspace_id: UUID | None, access: RepositoryAccess | None) -> str:
    secret = "" if access is None else f"\n{access.secret_id} {access.version} {access.user}"
    return sha256(f"{workspace_id}\n{url}{secret}".encode()).hexdigest()[:32]


def _make(root: Path, place: Path) -> None:
    root.mkdir(parents=True, exist_ok=True, mode=0o700)
    place.mkdir(exist_ok=True, mode=0o700)


def credentials_fault(done: Ended, repository: Repository) -> str | None:
    """Return what is wrong with the credentials if the server asks for some, with the cure."""
    if not any(words in line for line in done.said for words in _ASKED):
        return None
    if repository.secret is None:
        return (
            "its server asks for credentials, or there is no such repository. Give the task a "
            "repository.secret that may read it."
        )
    return (
        f"its server does not take the secret {repository.secret!r} of the user "
        f"{repository.user!r}. Check its value, its rights and repository.user."
    )


def said_by(done: Ended) -> str:
    """Return what git, and the ssh that it has started, say of a failure, without advice."""
    lines = [line.strip() for line in takewhile(lambda line: _ADVICE not in line, done.said)]
    shown = [line for line in lines if line and not line.startswith("warning:")]
    return " ".join(shown[-_SHOWN_LINES:]) or done.reason


async def _has(mirror: Path, sha: str) -> bool:
    done = await Git().run("cat-file", "-e", f"{sha}^{{commit}}", at=mirror)
    return not done.code


def _no_ref(repository: Repository, ref: str) -> RepositoryRefusedError:
    return RepositoryRefusedError(
        f"The repository {repository.git} has no branch, tag or commit {ref}.", field="ref"
    )


async def _taken(place: Path, need: _Need) -> tuple[int, bool] | None:
    """Lock a repository as `Mirrors._locked` does; None if others hold it so that this can't be."""
    shared = locked(place / _LOCK, alone=False)
    if shared is not None:
        is_met = False
        try:
            is_met = await need.is_met(place / _MIRROR)
        finally:
            if not is_met:
                locks.unlock(shared)
        if is_met:
            return shared, True
    alone = locked(place / _LOCK)
    return None if alone is None else (alone, False)


def locked(path: Path, *, alone: bool = True) -> int | None:
    """Open a file, made if it is missing, and lock it, shared or alone.

    Returns None if another process or attempt holds it, or if its directory is gone.

    Unlock the returned descriptor. Only a process that holds it removes it.
    """
    try:
        found = locks.lock(path, os.O_RDWR | os.O_CREAT, shared=not alone)
    except FileNotFoundError:
        return None
    if found is None or _is_same(found, path):
        return found
    locks.unlock(found)
    return None


async def _share(lock: int) -> None:
    """Let others lock a file shared that is locked alone.

    Linux gives the lock up for a moment: another process may get it alone then.
    """
    while True:
        with suppress(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return
        await asyncio.sleep(_POLL_SECONDS)


def _is_same(lock: int, path: Path) -> bool:
    """Whether the file was not removed with its directory before it was locked."""
    try:
        now, then = path.stat(), os.fstat(lock)
    except FileNotFoundError:
        return False
    return (now.st_dev, now.st_ino) == (then.st_dev, then.st_ino)


def _remove_partial(mirror: Path) -> None:
    """Remove what a fetch that was ended has left."""
    for left in mirror.glob("objects/pack/tmp_*"):
        left.unlink(missing_ok=True)
    for left in mirror.glob("objects/tmp_objdir-*"):
        shutil.rmtree(left, ignore_errors=True)
    for left in mirror.glob("**/*.lock"):
        left.unlink(missing_ok=True)


def _used_at(root: Path) -> dict[Path, float]:
    """Return when each repository was last used; other processes may remove some meanwhile."""
    found = {}
    for place in root.iterdir():
        with suppress(FileNotFoundError):
            if place.is_dir():
                found[place] = place.stat().st_mtime
    return found


def _size(place: Path) -> int:
    total = 0
    for folder, _, files in os.walk(place):
        for name in files:
            with suppress(FileNotFoundError):
                total += Path(folder, name).lstat().st_size
    return total


def _has_many_packs(place: Path) -> bool:
    packs = place.glob(f"{_MIRROR}/objects/pack/*.pack")
    return sum(1 for _ in packs) > _MOST_PACKS


def _removed(place: Path) -> bool:
    lock = locked(place / _LOCK)
    if lock is None:
        return False
    try:
        return remove_tree(place)
    finally:
        locks.unlock(lock)
