"""git as the worker runs it: without its user's configuration, hooks, prompts or helpers.

The repositories that the worker itself runs git in are its own: no agent writes to them. What it
does in a directory that an agent could write to is in `change.py`.
"""

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from celeriac.agents.child.process import ChildCommand
from celeriac.agents.repository.program import Ended, run_program
from celeriac.domain.errors import RepositoryUnavailableError, WorkerMisconfiguredError
from celeriac.domain.repositories import RepositoryAccess
from celeriac.kit.processes import NO_LIMITS, ResourceLimits
from celeriac.logs.masks import Masker

ENVIRONMENT: Mapping[str, str] = {
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_SYSTEM": os.devnull,
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_ATTR_NOSYSTEM": "1",
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_ASKPASS": "/bin/false",
    "SSH_ASKPASS": "/bin/false",
    "GIT_LFS_SKIP_SMUDGE": "1",
    "GIT_NO_REPLACE_OBJECTS": "1",
    "GIT_OPTIONAL_LOCKS": "0",
    "GIT_PAGER": "cat",
    "GIT_EDITOR": "/bin/false",
    # a server that asks for Negotiate gets no Kerberos ticket of the worker's user
    "KRB5CCNAME": os.devnull,
    "KRB5_CLIENT_KTNAME": os.devnull,
    "HOME": "/nonexistent",
    "LC_ALL": "C",
}
"""Variables of every git that Celeriac runs. `ALLOW` names what it may fetch with."""

ALLOW = "GIT_ALLOW_PROTOCOL"

SETTINGS: Mapping[str, str] = {
    "core.hooksPath": os.devnull,
    "core.fsmonitor": "false",
    "core.untrackedCache": "false",
    "core.attributesFile": os.devnull,
    "core.excludesFile": os.devnull,
    "core.protectHFS": "true",
    "core.protectNTFS": "true",
    "credential.helper": "",
    "http.emptyAuth": "false",
    "http.followRedirects": "false",
    "submodule.recurse": "false",
    "fetch.recurseSubmodules": "false",
    "gc.auto": "0",
    "maintenance.auto": "false",
    "transfer.fsckObjects": "true",
    # faults of old commits that harm nothing
    **{
        f"fetch.fsck.{fault}": "warn"
        for fault in ("zeroPaddedFilemode", "missingSpaceBeforeDate", "badTimezone")
    },
    "commit.gpgSign": "false",
    "advice.detachedHead": "false",
}
"""Settings of every git that Celeriac runs."""

_SHORT_SECONDS = 120.0
MOST_MEMORY = 4 * 1024**3
"""Bytes of each process: a few kilobytes of deltas can stand for an object of any size, and a
server can name refs without end."""
OLDEST_GIT = "2.37"
"""An older git ignores `http.curloptResolve`, the setting that binds it to an address."""
_VERSION_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Git:
    """Runs git in repositories of the worker, as the worker's user."""

    settings: Mapping[str, str] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    protocol: str = "none"
    """The one protocol that it may use."""
    limits: ResourceLimits = NO_LIMITS
    seconds: float = _SHORT_SECONDS
    access: RepositoryAccess | None = None
    """The credentials that it sends to `server`, if that asks for some."""
    memory: int = MOST_MEMORY
    """Bytes that each of its processes may allocate."""
    server: str = ""
    """`https://HOST`, with a port if the URL has one."""

    async def run(self, *arguments: str, at: Path) -> Ended:
        """Run git in the directory `at`, and return how it ended.

        Raises RepositoryUnavailableError after the time limit, WorkerMisconfiguredError where
        there is no git.
        """
        with self._credentials() as (descriptors, helper):
            done = await self._run(arguments, at, {**self.settings, **helper}, descriptors)
        return done if self.access is None else _masked(done, self.access)

    async def _run(
        self,
        arguments: tuple[str, ...],
        at: Path,
        added: Mapping[str, str],
        descriptors: tuple[int, ...],
    ) -> Ended:
        settings = {**SETTINGS, **added}
        given = (each for name, value in settings.items() for each in ("-c", f"{name}={value}"))
        command = ChildCommand(
            arguments=(git_program(), *given, *arguments),
            environment={
                **ENVIRONMENT,
                "PATH": os.environ.get("PATH", os.defpath),
                "TMPDIR": tempfile.gettempdir(),
                **self.environment,
                ALLOW: self.protocol,
            },
            workdir=at,
            limits=replace(self.limits, memory=self.memory),
            passes=descriptors,
        )
        try:
            return await run_program(command, seconds=self.seconds)
        except TimeoutError:
            raise RepositoryUnavailableError(
                f"git {arguments[0]} took more than {self.seconds:g} s and was ended."
            ) from None

    @contextmanager
    def _credentials(self) -> Iterator[tuple[tuple[int, ...], Mapping[str, str]]]:
        """Give the block a file in memory with the credentials, and the setting that names it.

        So they are in no argument, no environment and no file of a disk. git asks a helper, which
        is `cat`, and only for this server.
        """
        if self.access is None:
            yield (), {}
            return
        file = os.memfd_create("git", os.MFD_CLOEXEC)
        try:
            os.write(file, self.access.lines)
            helper = f'!f() {{ test "$1" != get || cat /proc/self/fd/{file}; }}; f'
            yield (file,), {f"credential.{self.server}.helper": helper}
        finally:
            os.close(file)

    async def do(self, *arguments: str, at: Path) -> Ended:
        """Do what `run` does. Raises RepositoryUnavailableError for another exit code than 0."""
        done = await self.run(*arguments, at=at)
        if done.code:
            raise RepositoryUnavailableError(f"git {arguments[0]} has failed: {done.reason}")
        return done


def _masked(done: Ended, access: RepositoryAccess) -> Ended:
    """Return what a server has said, without what it was sent."""
    masker = Masker(access.values)
    output = masker.text(done.output.decode(errors="replace")).encode()
    return replace(done, output=output, said=tuple(masker.text(line) for line in done.said))


def can_pin(version: str) -> bool:
    """Whether the git with this answer to `git version` has `http.curloptResolve`."""
    return _numbers(version) >= _numbers(OLDEST_GIT)


def _numbers(version: str) -> tuple[int, ...]:
    found = re.search(r"(\d+)\.(\d+)", version)
    return () if found is None else (int(found[1]), int(found[2]))


def git_version() -> str | None:
    """Return what git says of its version; None where there is none that runs."""
    try:
        done = subprocess.run(
            [git_program(), "version"],
            capture_output=True,
            check=True,
            text=True,
            timeout=_VERSION_SECONDS,
        )
    except (WorkerMisconfiguredError, OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return None
    return done.stdout.strip()


def git_program() -> str:
    """Return the path of git. Raises WorkerMisconfiguredError where there is none."""
    found = shutil.which("git")
    if found is None:
        raise WorkerMisconfiguredError(
            "There is no git on this worker's PATH: install it, as with `apt install git`.",
            field="repository",
        )
    return str(Path(found).absolute())
