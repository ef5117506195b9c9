"""Pushes the change of an agent: from a repository of the worker, which no agent has written to.

    <home>/repositories/<key>/push-…    the change, taken from its bundle; the rest is the mirror's

The objects come from the bundle that was stored; nothing of the agent's settings, hooks or refs
does. What is pushed replaces only what earlier attempts of the same execution have pushed, and only
if the server still has it. A branch of others is moved forward where the task allows that.
"""

import asyncio
import json
import tempfile
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from celeriac.agents.repository.change import BUNDLE, Change
from celeriac.agents.repository.checkout import Author
from celeriac.agents.repository.git import Git
from celeriac.agents.repository.mirrors import Mirrors, credentials_fault, said_by
from celeriac.agents.repository.program import Ended
from celeriac.domain.errors import (
    ExecutionError,
    PushFailedError,
    RepositoryUnavailableError,
)
from celeriac.domain.publishing import Publication
from celeriac.domain.repositories import Repository, is_sha
from celeriac.kit.files import remove_tree
from celeriac.kit.processes import ResourceLimits
from celeriac.kit.threads import FILES
from celeriac.services.ports import Job

_PUSHED = "pushed.json"
_SCRATCH = "push-"
_DAY = 86_400.0
_PAUSES = (1.0, 4.0)
"""Seconds before the server is tried again."""

_OURS, _BASE, _THEIRS = "refs/celeriac/ours", "refs/celeriac/base", "refs/celeriac/theirs"
_REFUSED = ("returned error: 403", "not found", "denied")
"""What a server says that another try does not change."""


@dataclass(frozen=True, slots=True)
class Pushed:
    """What the server has now. `base` is the branch that the change is for."""

    branch: str
    sha: str
    base: str | None
    new: bool
    """False if an earlier attempt has pushed the same commit."""


@dataclass(frozen=True, slots=True)
class _Remote:
    """What the server has: its default branch, and the commits of branches."""

    default: str | None
    heads: dict[str, str]


class _MovedError(Exception):
    """The branch has changed between a look and a push."""


@dataclass(frozen=True, slots=True)
class Pusher:
    """Pushes one change. `record` is the directory of its execution."""

    mirrors: Mirrors
    job: Job
    repository: Repository
    publication: Publication
    author: Author
    record: Path

    async def push(self, change: Change) -> Pushed:
        """Push the stored change. Repeatable: what an earlier attempt has pushed is replaced.

        Raises PushFailedError; the change is kept.
        """
        if change.bundle is None:
            raise self._failed(
                "its bundle is larger than CELERIAC_REPOSITORIES_PATCH_MB. Have an administrator "
                "raise it, for the workers"
            )
        for pause in (*_PAUSES, None):
            try:
                return await self._push(change)
            except (RepositoryUnavailableError, _MovedError) as error:
                if pause is None:
                    raise self._failed(str(error) or "the branch is changed all the time") from None
                await asyncio.sleep(pause)
            except PushFailedError:
                raise
            except ExecutionError as error:
                raise self._failed(error.message) from error
        raise AssertionError("the last try returns or raises")

    async def _push(self, change: Change) -> Pushed:
        job, branch = self.job, self.publication.branch
        async with self.mirrors.holding(
            self.repository, job.workspace_id, change.base, job.repository_access
        ) as found:
            git = await self.mirrors.remote(self.repository, found.directory, job.repository_access)
            async with self._scratch(found.directory) as scratch:
                remote = await self._look(git, scratch)
                base = self._base(remote)
                theirs = remote.heads.get(branch)
                if theirs == change.head:
                    return Pushed(branch, change.head, base, new=False)
                await self._unpack(scratch, change)
                below = ""
                if theirs is not None:
                    below = await self._check_theirs(git, scratch, theirs, change)
                await FILES.run(self._note, change.head, below)
                await self._send(git, scratch, change.head, theirs or "")
                return Pushed(branch, change.head, base, new=True)

    @asynccontextmanager
    async def _scratch(self, mirror: Path) -> AsyncIterator[Path]:
        """Give the block an empty repository that borrows the objects of the mirror."""
        await FILES.run(_remove_old, mirror.parent)
        scratch = Path(tempfile.mkdtemp(prefix=_SCRATCH, dir=mirror.parent))
        try:
            await Git().do("init", "--quiet", "--bare", "--template=", ".", at=scratch)
            (scratch / "objects/info").mkdir(exist_ok=True)
            (scratch / "objects/info/alternates").write_text(f"{mirror}/objects\n")
            yield scratch
        finally:
            await FILES.run(remove_tree, scratch)

    async def _look(self, git: Git, scratch: Path) -> _Remote:
        names = {self.publication.branch, *([self.repository.ref] if self.repository.ref else [])}
        done = await git.run(
            *("ls-remote", "--symref", "--", self.repository.git, "HEAD"),
            *(f"refs/heads/{each}" for each in sorted(names)),
            at=scratch,
        )
        self._check(done, "can't be read")
        default, heads = None, {}
        for line in done.text.splitlines():
            value, _, name = line.partition("\t")
            if name == "HEAD" and value.startswith("ref: refs/heads/"):
                default = value.removeprefix("ref: refs/heads/")
            elif name.startswith("refs/heads/") and is_sha(value):
                heads[name.removeprefix("refs/heads/")] = value
        return _Remote(default, heads)

    def _base(self, remote: _Remote) -> str | None:
        ref = self.repository.ref
        return ref if ref in remote.heads else remote.default

    async def _unpack(self, scratch: Path, change: Change) -> None:
        """Take the commits from the bundle, which the agent's user has written."""
        await Git().do("update-ref", _BASE, change.base, at=scratch)
        git = Git(protocol="file", limits=self._limits, seconds=self.mirrors.limits.fetch_seconds)
        done = await git.run(
            *("fetch", "--quiet", "--no-tags", "--no-write-fetch-head", "--no-recurse-submodules"),
            *("--no-auto-gc", "--", str(self.record / BUNDLE)),
            f"+refs/heads/{change.branch}:{_OURS}",
            at=scratch,
        )
        sha = (await Git().run("rev-parse", "--verify", "--quiet", _OURS, at=scratch)).text
        if done.code or sha != change.head:
            raise self._failed(f"its bundle can't be read: {said_by(done)}")

    @property
    def _limits(self) -> ResourceLimits:
        return ResourceLimits(file_bytes=self.mirrors.limits.fetch_bytes)

    async def _check_theirs(self, git: Git, scratch: Path, theirs: str, change: Change) -> str:
        """Refuse to change a branch that others have made, and to replace what they have pushed.

        Returns the last commit of others on the branch; "" if this execution has made it.
        """
        branch = self.publication.branch
        done = await git.run(
            *("fetch", "--quiet", "--no-tags", "--no-write-fetch-head", "--no-recurse-submodules"),
            *("--no-auto-gc", "--", self.repository.git),
            f"+refs/heads/{branch}:{_THEIRS}",
            at=scratch,
        )
        self._check(done, "can't be read")
        if (await Git().run("rev-parse", _THEIRS, at=scratch)).text != theirs:
            raise _MovedError
        below = (await FILES.run(self._noted)).get(theirs)
        if below is None and await self._is_own(scratch, theirs, change):
            below = change.base if self.publication.existing else ""
        is_new, below = below is None, theirs if below is None else below
        if below and not await self._is_ancestor(scratch, below, change.head):
            raise self._failed(
                f"the branch {branch} has commits of others, which are not replaced. Merge them by "
                "hand, or name another branch in repository.push.branch"
            )
        if is_new and not self.publication.existing:
            raise self._failed(
                f"the branch {branch} is there already. Name another one in "
                "repository.push.branch, or allow it with push.existing"
            )
        return below

    async def _is_ancestor(self, scratch: Path, older: str, newer: str) -> bool:
        done = await Git().run("merge-base", "--is-ancestor", older, newer, at=scratch)
        return not done.code

    async def _is_own(self, scratch: Path, theirs: str, change: Change) -> bool:
        """Whether all that the branch adds to the commit of the checkout is of this execution."""
        emails = await Git().run("log", "--format=%ce", f"{change.base}..{theirs}", at=scratch)
        found = {*emails.text.splitlines()}
        of_base = await self._is_ancestor(scratch, change.base, theirs)
        return of_base and not emails.code and found == {self.author.email}

    async def _send(self, git: Git, scratch: Path, head: str, theirs: str) -> None:
        name = f"refs/heads/{self.publication.branch}"
        done = await git.run(
            *("push", "--porcelain", "--quiet", "--no-verify", "--no-follow-tags", "--no-signed"),
            *("--recurse-submodules=no", f"--force-with-lease={name}:{theirs}"),
            *("--", self.repository.git, f"{head}:{name}"),
            at=scratch,
        )
        if not done.code:
            return
        rejected = [line for line in done.text.splitlines() if line.startswith("!")]
        if any("stale info" in line or "fetch first" in line for line in rejected):
            raise _MovedError
        if rejected:
            reason = rejected[0].rpartition("\t")[2]
            said = [line.strip() for line in done.said if line.startswith("remote:")]
            raise self._failed(f"its server refuses it: {' '.join([reason, *said[-3:]])}")
        self._check(done, "can't be pushed to")

    def _check(self, done: Ended, what: str) -> None:
        """Raise PushFailedError, or RepositoryUnavailableError for what may pass."""
        if not done.code:
            return
        fault = credentials_fault(done, self.repository)
        said = said_by(done)
        if fault or any(words in said for words in _REFUSED):
            raise self._failed(fault or said)
        raise RepositoryUnavailableError(f"{self.repository.git} {what}: {said}")

    def _failed(self, reason: str) -> PushFailedError:
        return PushFailedError(
            f"The change is stored, but not pushed to {self.repository.git}: {reason}",
            branch=self.publication.branch,
        )

    def _noted(self) -> Mapping[str, str]:
        """Return the commits that attempts whose files are here may have pushed.

        Each with the last commit of others that the branch had; "" if it was new.
        """
        with suppress(OSError, ValueError):
            found = json.loads((self.record / _PUSHED).read_text())
            if isinstance(found, dict):
                return {str(sha): str(below) for sha, below in found.items()}
        return {}

    def _note(self, sha: str, below: str) -> None:
        draft = self.record / f".{_PUSHED}"
        draft.write_text(json.dumps({**self._noted(), sha: below}))
        draft.replace(self.record / _PUSHED)


def _remove_old(place: Path) -> None:
    """Remove what workers have left that died while they pushed."""
    for each in place.glob(f"{_SCRATCH}*"):
        with suppress(FileNotFoundError):
            if time.time() - each.stat().st_mtime > _DAY:
                remove_tree(each)
