"""The user that child processes run as: found, created, and given access to what it needs.

Only root can start processes as another user. That user then owns the working directories of its
processes, and nothing else.
"""

import os
import pwd
import shutil
import subprocess
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from celeriac.kit.access import first_closed, grant_search
from celeriac.kit.processes import UserIds

_USERADD = (
    "--system", "--user-group", "--no-create-home", "--home-dir", "/nonexistent",
    "--shell", "/usr/sbin/nologin",
)  # fmt: skip
_SYSTEM_PROGRAMS = ("/usr/sbin", "/sbin")  # `su` and services leave them out of the PATH
_TIMEOUT_SECONDS = 30
_PRIVATE = 0o700
_SHELL = "/bin/sh"

_CAPABILITIES = {0: "CAP_CHOWN", 6: "CAP_SETGID", 7: "CAP_SETUID"}


class UnreachableError(OSError):
    """The user of a process can't own or read what it needs; the text says how to correct that."""


@dataclass(frozen=True, slots=True)
class ChildUser:
    """The user of child processes; without `ids` the user of this process."""

    name: str = ""
    ids: UserIds | None = None

    def variables(self, home: Path) -> Mapping[str, str]:
        """Return the environment variables of the user, whose home is `home`."""
        if self.ids is None:
            return {}
        return {
            "HOME": str(home.absolute()), "USER": self.name, "LOGNAME": self.name, "SHELL": _SHELL,
        }  # fmt: skip

    def own(self, directory: Path) -> None:
        """Create `directory` if it is missing; give it to the user, reachable and closed to others.

        Its content is given too. Only this process's user may be able to write to the directories
        above it. Raises UnreachableError.
        """
        if self.ids is not None and _is_above(self.ids, directory):
            raise UnreachableError(
                f"{directory} can't be given to {self.name}, the user that agents run as: it lies "
                "in a directory of this user, who could have put a link there."
            )
        directory.mkdir(mode=_PRIVATE, parents=True, exist_ok=True)
        if self.ids is None:
            return
        try:
            if directory.lstat().st_uid != self.ids.user:
                self._give_tree(directory, self.ids)
            grant_search(directory, self.ids)
        except OSError as error:
            raise UnreachableError(
                f"{directory} can't be given to {self.name}, the user that agents run as: "
                f"{error.strerror}. Put CELERIAC_HOME on a file system whose files root may give "
                "away."
            ) from error

    def give_file(self, path: Path) -> None:
        """Let the user, and no other, read a file of ours in a directory of ours."""
        if self.ids is not None:
            os.chown(path, self.ids.user, self.ids.group, follow_symlinks=False)
            grant_search(path, self.ids)

    def let_through(self, paths: Iterable[Path]) -> None:
        """Let the user pass through the directories above `paths` without listing them.

        Missing paths are skipped. Raises UnreachableError.
        """
        if self.ids is None:
            return
        for path in paths:
            try:
                if path.exists():
                    grant_search(path, self.ids)
            except OSError as error:
                raise UnreachableError(
                    f"{self.name}, the user that agents run as, can't be let through to {path}: "
                    f"{error.strerror}."
                ) from error

    def let_read(self, paths: Iterable[Path]) -> None:
        """Let the user pass through to `paths`, and check that it can read them, or run programs.

        Missing paths are skipped. Raises UnreachableError for a path that is closed to the user: it
        stays closed.
        """
        if self.ids is None:
            return
        wanted = [path for path in paths if path.exists()]
        self.let_through(wanted)
        for path in wanted:
            closed = first_closed(path, self.ids)
            if closed is not None:
                raise UnreachableError(
                    f"{self.name}, the user that agents run as, can't read {closed}. Open it, as "
                    f"with `chmod o+rX {closed}`, or name another user with CELERIAC_AGENT_USER."
                )

    @staticmethod
    def _give_tree(top: Path, ids: UserIds) -> None:
        top.chmod(_PRIVATE)
        for _, folders, files, place in os.fwalk(top):
            for name in (*folders, *files):
                os.chown(name, ids.user, ids.group, dir_fd=place, follow_symlinks=False)
        os.chown(top, ids.user, ids.group, follow_symlinks=False)


def _is_above(ids: UserIds, directory: Path) -> bool:
    """Whether a directory above, or a link in its place, belongs to the user, if that is not us."""
    owners = (each.lstat().st_uid for each in directory.absolute().parents if os.path.lexists(each))
    return ids.user != os.geteuid() and ids.user in owners


OURSELVES = ChildUser()
"""The user of this process."""


def system_user(name: str) -> UserIds:
    """Return a system user, created if it doesn't exist. Needs root.

    Two processes may create it at once; both return it. Raises OSError with the reason where it
    can't be created.
    """
    with suppress(KeyError):
        return _known(name)
    path = os.pathsep.join((os.environ.get("PATH", os.defpath), *_SYSTEM_PROGRAMS))
    program = shutil.which("useradd", path=path) or "useradd"
    command = (program, *_USERADD, name)
    try:
        subprocess.run(command, check=True, capture_output=True, timeout=_TIMEOUT_SECONDS)
        return _known(name)
    except (OSError, subprocess.SubprocessError, KeyError) as error:
        with suppress(KeyError):
            return _known(name)  # another process has created it
        said = getattr(error, "stderr", None) or b""
        raise OSError(said.decode(errors="replace").strip() or str(error)) from error


def named_user(text: str) -> UserIds:
    """Return the user named by `text`: a name, a number, or two numbers `user:group`.

    Raises ValueError for an unknown user.
    """
    user, _, group = text.partition(":")
    with suppress(KeyError, ValueError):
        if user.isdecimal():
            number = int(user)
            return UserIds(number, int(group) if group else _group_of(number))
        if not group:
            return _known(text)
    raise ValueError(f"there is no user {text!r} on this machine")


def obstacle(ids: UserIds) -> str:
    """Return why this process, which is root, can't start processes as `ids`; empty if it can.

    In containers, root may lack rights, or there may be no other users.
    """
    status = Path("/proc/self/status").read_text()
    effective = int(status.partition("CapEff:")[2].split(maxsplit=1)[0], 16)
    missing = [name for bit, name in _CAPABILITIES.items() if not effective >> bit & 1]
    if missing:
        return f"root has no {', '.join(missing)} here"
    for kind, number in (("uid", ids.user), ("gid", ids.group)):
        ranges = Path(f"/proc/self/{kind}_map").read_text().splitlines()
        starts = ((int(start), int(count)) for start, _, count in map(str.split, ranges))
        if not any(start <= number < start + count for start, count in starts):
            return f"there is no {kind} {number} in this user namespace"
    return ""


def _known(name: str) -> UserIds:
    entry = pwd.getpwnam(name)
    return UserIds(user=entry.pw_uid, group=entry.pw_gid)


def _group_of(user: int) -> int:
    try:
        return pwd.getpwuid(user).pw_gid
    except KeyError:
        return user
