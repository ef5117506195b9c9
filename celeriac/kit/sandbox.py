"""Sandboxes of bubblewrap: what a confined process sees, and its command line.

Only what is listed here exists inside: the system and named paths to read, one directory to write,
a private /tmp, /proc and /dev. docs/confinement.md describes it.
"""

import os
import platform
import re
import socket
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Self

from celeriac.kit.processes import Asked, Namespace, ResourceLimits
from celeriac.kit.users import ChildUser

PROGRAM = "bwrap"

_SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")

_ETC = (
    "alternatives", "bash.bashrc", "ca-certificates", "ca-certificates.conf", "crypto-policies",
    "debian_version", "fonts", "gai.conf", "group", "host.conf", "hosts", "inputrc", "java",
    "ld.so.cache", "ld.so.conf", "ld.so.conf.d", "locale.alias", "localtime", "mime.types",
    "networks", "nsswitch.conf", "os-release", "passwd", "perl", "pki", "profile", "protocols",
    "python3", "services", "ssl", "terminfo", "timezone",
)  # fmt: skip
"""Entries of /etc that programs need and that hold no secrets."""

_ETC_OF_NETWORK = ("resolv.conf",)
_PRIVATE_KEYS = Path("/etc/ssl/private")

_NAMESPACES = (
    "--unshare-user", "--disable-userns", "--unshare-ipc", "--unshare-pid", "--unshare-uts",
    "--unshare-cgroup", "--hostname", "sandbox", "--cap-drop", "ALL", "--die-with-parent",
)  # fmt: skip

_EMPTY_BYTES = 1024 * 1024
"""Size of the empty file systems that hide directories."""

_START_SECONDS = 10.0

_COUNTED_SINCE = (5, 14)
"""Since this release of Linux, processes are counted for each user namespace."""


@dataclass(frozen=True, slots=True)
class WholeLimits:
    """What all processes of a sandbox may use together; None is no limit.

    `memory` in bytes, with /tmp and /dev/shm. `disk` in bytes and `files` in the directories that
    it writes to; files in /tmp and /dev/shm count, too.
    """

    memory: int | None = None
    disk: int | None = None
    files: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Sandbox:
    """How the processes of attempts are confined.

    `program` is bubblewrap. `reads` are visible besides the system, `hidden` directories never are:
    they lie in no path that is visible. `shares_network` leaves the machine's network visible.
    `tmp_bytes` is the size of /tmp and of /dev/shm, which are memory. `whole` are the limits of all
    of its processes together, which are measured from outside.
    """

    program: str = PROGRAM
    shares_network: bool = False
    reads: tuple[Path, ...] = ()
    hidden: tuple[Path, ...] = ()
    processes: int = 256
    file_bytes: int = 1024**3
    tmp_bytes: int = 256 * 1024**2
    cpu_seconds: int | None = None
    whole: WholeLimits = WholeLimits()

    driver: ClassVar[str] = "bubblewrap"
    asked: ClassVar[Asked] = Asked.INSIDE

    @property
    def start_seconds(self) -> float:
        """How long a child may take to give up its listening sockets; it is its first act."""
        return _START_SECONDS

    @property
    def outside_user(self) -> ChildUser | None:
        """The user of the process that makes the sandbox, if that is not the user inside."""
        return None

    def named(self, memory: int | None = None) -> Self:  # noqa: ARG002 - of containers
        """Return the sandbox of one process that may have `memory` bytes; `clean` removes it."""
        return self

    def clean(self) -> None:
        """Remove what the end of the process has left outside; blocks."""

    def namespace(self, channel: int | None = None, ports: tuple[int, ...] = ()) -> Namespace:
        """Return the namespace in which the command of the sandbox is started."""
        return Namespace(not self.shares_network, channel, ports)

    def limits(self, memory: int | None) -> ResourceLimits:
        """Return the limits of a process that may have `memory` bytes."""
        return ResourceLimits(
            memory=memory,
            cpu_seconds=self.cpu_seconds,
            processes=self.processes if counts_processes() else None,
            file_bytes=self.file_bytes,
        )

    def command(
        self,
        arguments: Sequence[str],
        *,
        workdir: Path,
        shows: Iterable[Path] = (),
        writes: Iterable[Path] = (),
    ) -> list[str]:
        """Return the command that runs `arguments` inside, in `workdir`, where it may write.

        `shows` are files and directories that this process needs; they may lie in hidden ones.
        Missing paths are left out. It may also write to the directories `writes`. What lies in one
        of these is not resolved out here: a link could lead it anywhere.
        """
        work = workdir.absolute()
        written = uncovered_as_named((work, *(path.absolute() for path in writes)))
        view = View.of((path.absolute() for path in (*self.reads, *shows)), self.hidden)
        keys = [_PRIVATE_KEYS] if _PRIVATE_KEYS.is_dir() else []
        return [
            *(self.program, *_NAMESPACES),
            *("--proc", "/proc", "--dev", "/dev"),
            *_without_keys(),
            *_empty("/dev/shm", self.tmp_bytes),  # noqa: S108 - inside the sandbox
            *("--remount-ro", "/dev"),
            *_empty("/tmp", self.tmp_bytes),  # noqa: S108 - inside the sandbox
            *_system(),
            *self._settings_of_system(),
            *_covering(keys),
            *_shown(view.wide),
            *_covering(view.covered),
            *_shown(view.inner),
            *_writable(written),
            # after what is mounted in them
            *_closing(each for each in (*keys, *view.covered) if each not in written),
            *("--remount-ro", "/", "--chdir", str(work), "--"),
            *arguments,
        ]

    def _settings_of_system(self) -> Iterator[str]:
        for name in (*_ETC, *(_ETC_OF_NETWORK if self.shares_network else ())):
            yield from ("--ro-bind-try", f"/etc/{name}", f"/etc/{name}")


@dataclass(frozen=True, slots=True)
class View:
    """What a process reads besides the system: `wide`, without what is `covered`, and `inner`."""

    wide: tuple[Path, ...]
    covered: tuple[Path, ...]
    """Hidden directories in `wide` or in the system."""
    inner: tuple[Path, ...]
    """Paths in hidden directories."""

    @classmethod
    def of(cls, paths: Iterable[Path], hidden: Iterable[Path]) -> "View":
        """Return the view of `paths` without the directories `hidden`."""
        places = sorted({path.resolve() for path in hidden})
        wanted = {*paths}
        inner = {path for path in wanted if any(_lies_in(path, each) for each in places)}
        wide = _uncovered(wanted - inner, map(Path, _SYSTEM))
        covered = tuple(_covers(places, (*map(Path, _SYSTEM), *wide)))
        return cls(tuple(wide), covered, tuple(_uncovered(inner)))


@dataclass(frozen=True, slots=True)
class LoopbackPort:
    """A server of the worker that a child reaches on its own loopback, at the same port.

    `serve` is called with the socket that listens there.
    """

    port: int
    serve: Callable[[socket.socket], Awaitable[None]]


def _without_keys() -> Iterator[str]:
    """Cover the lists of the kernel's keys: a user sees the names of all that are theirs."""
    for name in ("/proc/keys", "/proc/key-users"):
        if Path(name).exists():
            yield from ("--ro-bind", os.devnull, name)


def _system() -> Iterator[str]:
    """Show the system's programs and libraries; on most systems all but /usr are links."""
    for name in _SYSTEM:
        path = Path(name)
        if path.is_symlink():
            yield from ("--symlink", str(path.readlink()), name)
        elif path.is_dir():
            yield from ("--ro-bind", name, name)


def _covers(hidden: Sequence[Path], visible: Iterable[Path]) -> Iterator[Path]:
    """Return where the directories `hidden` would be seen in what is `visible`."""
    for path in visible:
        for each in hidden:
            if each.is_dir() and each.is_relative_to(path.resolve()):
                yield path / each.relative_to(path.resolve())


def _empty(place: str, size: int) -> tuple[str, ...]:
    return ("--size", str(size), "--tmpfs", place)


def _covering(places: Iterable[Path]) -> Iterator[str]:
    for each in places:
        yield from _empty(str(each), _EMPTY_BYTES)


def _closing(places: Iterable[Path]) -> Iterator[str]:
    for each in places:
        yield from ("--remount-ro", str(each))


def _lies_in(path: Path, directory: Path) -> bool:
    return path.resolve().is_relative_to(directory)


def _shown(paths: Iterable[Path]) -> Iterator[str]:
    for path in paths:
        yield from ("--ro-bind-try", str(path.resolve()), str(path))


def _writable(directories: Iterable[Path]) -> Iterator[str]:
    for each in directories:
        yield from ("--bind", str(each.resolve()), str(each))


def uncovered_as_named(paths: Iterable[Path]) -> list[Path]:
    """Return the paths that lie in no other one of them, without looking at the disk."""
    left: list[Path] = []
    for path in sorted(set(paths)):
        if not any(path.is_relative_to(each) for each in left):
            left.append(path)
    return left


def _uncovered(paths: Iterable[Path], seen: Iterable[Path] = ()) -> list[Path]:
    """Return the paths to show, parents first, without those inside others or inside `seen`.

    Of a link inside another path, its target remains: the link itself is seen already.
    """
    left: list[Path] = []
    covering = list(seen)
    for path in sorted({*paths, *(path.resolve() for path in paths)}):
        if not any(path.is_relative_to(each) for each in covering):
            left.append(path)
            covering.append(path)
    return left


def counts_processes() -> bool:
    """Whether this kernel counts the processes of a sandbox apart from others of their user."""
    found = re.match(r"(\d+)\.(\d+)", platform.release())
    return found is not None and (int(found[1]), int(found[2])) >= _COUNTED_SINCE


def environment_inside(environment: dict[str, str], workdir: Path) -> dict[str, str]:
    """Return `environment` with the directories that exist inside: home and temporary files."""
    changed = {"HOME": str(workdir.absolute()), "TMPDIR": "/tmp"}  # noqa: S108 - inside the sandbox
    return {**environment, **changed}


def why_refused(said: str) -> str:
    """Return the cure for what a sandbox that can't be made has `said` on stderr."""
    for name, wanted in _SYSCTLS:
        if _sysctl(name) == wanted[0]:
            return f"Allow user namespaces, as root: sysctl -w {name}={wanted[1]}."
    if "Unknown option" in said or "not known" in said:
        return "bubblewrap 0.8.0 or later is needed."
    if "proc" in said and "mount" in said.lower():
        return (
            "In a container, /proc must not be masked: Docker's --security-opt "
            "systempaths=unconfined, or procMount: Unmasked in Kubernetes."
        )
    return (
        "The kernel or the container refuses user namespaces: allow them in its seccomp and "
        "AppArmor profiles."
    )


_SYSCTLS = (
    ("kernel.unprivileged_userns_clone", ("0", "1")),
    ("user.max_user_namespaces", ("0", "15000")),
    ("kernel.apparmor_restrict_unprivileged_userns", ("1", "0")),
)
"""Settings of the kernel that refuse user namespaces: the value that does, and one that allows."""


def _sysctl(name: str) -> str:
    path = os.path.join("/proc/sys", *name.split("."))  # noqa: PTH118 - a name of the kernel
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""
