"""The sandbox of a worker's agents, tried before the worker takes any work."""

import os
import select
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterable
from pathlib import Path

from celeriac.agents.network.rules import NetworkBounds
from celeriac.domain.confinement import Driver
from celeriac.domain.errors import ConfigurationError
from celeriac.kit import seccomp
from celeriac.kit.outbound import OutboundGuard
from celeriac.kit.processes import descendants_of, guarded_command, identify
from celeriac.kit.sandbox import PROGRAM, Sandbox, WholeLimits, why_refused
from celeriac.kit.usage import PRIVATE_PLACES, UnmeasurableError, held_by
from celeriac.kit.users import ChildUser
from celeriac.settings import Settings
from celeriac.wiring.containers import RefusedError, checked_container

_MEGABYTE = 1024 * 1024
_OWN_INSIDE = (Path("/etc"), Path("/tmp"))  # noqa: S108 - nothing is written there
"""The whole of the first holds private keys; the second would be neither private nor writable."""

_TRY_SECONDS = 30.0
_SHOWN_CHARACTERS = 300
_SOUND = "confined"

_LOOK_AROUND = f"""
for each in "$@"; do [ -e "$each" ] && echo "it sees $each"; done
while read -r name value; do
    case $name in
        CapEff:|CapBnd:) [ "$value" = 0000000000000000 ] || echo "it has capabilities: $value";;
        Seccomp:) [ "$0" != filtered ] || [ "$value" = 2 ] || echo "no system call is refused";;
        NoNewPrivs:) [ "$value" = 1 ] || echo "programs may gain rights";;
    esac
done </proc/self/status
[ "$$" -lt 100 ] || echo "it sees the machine's processes"
(: >/usr/probe) 2>/dev/null && echo "it can write to /usr"
: >./probe || echo "it can't write to its working directory"
echo {_SOUND}
"""
"""A program for the shell that writes what is wrong with its sandbox, and one word at the end."""


def sandbox_of(settings: Settings) -> Sandbox:
    """Return the sandbox of the settings. Raises ConfigurationError for its paths."""
    asked = settings.confinement
    hidden = tuple(path.absolute() for path in (settings.home, settings.logs))
    for path in asked.reads:
        if not path.exists():
            raise ConfigurationError(
                f"CELERIAC_CONFINEMENT_READS names {path}, which does not exist on this machine."
            )
        if path.resolve() in _OWN_INSIDE:
            raise ConfigurationError(
                f"CELERIAC_CONFINEMENT_READS names {path}, of which a sandbox has one of its own: "
                "name the files or directories in it that agents need."
            )
        if any(path.resolve().is_relative_to(each.resolve()) for each in hidden):
            raise ConfigurationError(
                f"CELERIAC_CONFINEMENT_READS names {path}, which lies in CELERIAC_HOME or in the "
                "directory of the logs. Agents never see these: put the files elsewhere."
            )
    return Sandbox(
        program=shutil.which(PROGRAM) or "",
        shares_network=asked.network == "host",
        reads=asked.reads,
        hidden=hidden,
        processes=asked.processes,
        file_bytes=asked.file_mb * _MEGABYTE,
        tmp_bytes=asked.tmp_mb * _MEGABYTE,
        cpu_seconds=asked.cpu_seconds,
        whole=WholeLimits(
            memory=None if asked.memory_mb is None else asked.memory_mb * _MEGABYTE,
            disk=None if asked.disk_mb is None else asked.disk_mb * _MEGABYTE,
            files=asked.files,
        ),
    )


def checked_sandbox(settings: Settings, user: ChildUser, workdirs: Path) -> Sandbox | None:
    """Return the sandbox that the settings ask for, after a program has run in it as `user`.

    Raises ConfigurationError with the cure where it can't be had: nothing runs unconfined instead.
    """
    if settings.confinement.driver == "none":
        return None
    return _checked(settings, user, workdirs, Driver(settings.confinement.driver))


class StricterSandbox:
    """The sandboxes of agents that demand a stricter driver than the worker's agents have.

    Each is tried when the first of these agents runs. Safe to share between threads.
    """

    def __init__(self, settings: Settings, user: ChildUser, workdirs: Path) -> None:
        self._settings = settings
        self._user = user
        self._workdirs = workdirs
        self._lock = threading.Lock()
        self._sandboxes: dict[Driver, Sandbox] = {}

    def __call__(self, driver: Driver) -> Sandbox:
        """Return the sandbox. Raises ConfigurationError with the cure where it can't be had."""
        with self._lock:
            if driver not in self._sandboxes:
                asked = (self._settings, self._user, self._workdirs)
                self._sandboxes[driver] = _checked(*asked, driver)
            return self._sandboxes[driver]


def network_bounds(settings: Settings) -> NetworkBounds:
    """Return what agents may ask of the network.

    Where the others have that of the machine, a list of an agent's own only narrows it.
    """
    asked = settings.confinement
    is_open = asked.driver == "none" or asked.network == "host"
    return NetworkBounds(
        hosts=None if is_open and not asked.hosts else asked.hosts,
        default=asked.default_hosts,
        guard=OutboundGuard.of(allow_private=False, allowed=asked.private_hosts),
    )


def _checked(settings: Settings, user: ChildUser, workdirs: Path, driver: Driver) -> Sandbox:
    sandbox = sandbox_of(settings)
    try:
        if (user.ids is None and os.geteuid() == 0) or (user.ids is not None and not user.ids.user):
            raise RefusedError(
                "they would run as root, to whom settings of the kernel in /proc/sys belong. Name "
                "another user with CELERIAC_AGENT_USER, or leave it out"
            )
        if driver is Driver.BUBBLEWRAP and not sandbox.program:
            raise RefusedError(
                f"the program {PROGRAM} is not on the worker's PATH. Install the package "
                "bubblewrap, as with `apt install bubblewrap`"
            )
        workdirs.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryDirectory(prefix="probe-", dir=workdirs) as name:
            _open(user, Path(name), sandbox.reads)
            if driver is Driver.CONTAINER:
                return checked_container(settings, sandbox, user, Path(name))
            _try(sandbox, user, Path(name))
    except RefusedError as error:
        raise ConfigurationError(
            f"Agents can't be confined as CELERIAC_CONFINEMENT_DRIVER={driver} asks: {error}. To "
            "run agents unconfined, set CELERIAC_CONFINEMENT_DRIVER=none."
        ) from error
    return sandbox


def _open(user: ChildUser, workdir: Path, reads: Iterable[Path]) -> None:
    """Give the user its directory, and the way to the paths that it may read."""
    try:
        user.own(workdir)
        user.let_through(reads)
    except OSError as error:
        raise RefusedError(str(error).rstrip(".")) from error


def _try(sandbox: Sandbox, user: ChildUser, workdir: Path) -> None:
    secrets = [str(each / "secrets") for each in sandbox.hidden]
    filtered = "filtered" if seccomp.program() else "unfiltered"
    inside = ("/bin/sh", "-c", _LOOK_AROUND, filtered, *secrets)
    command = guarded_command(
        sandbox.command(inside, workdir=workdir),
        limits=sandbox.limits(None),
        become=user.ids,
        namespace=sandbox.namespace(),
    )
    try:
        done = subprocess.run(
            command, capture_output=True, check=False, cwd=workdir, text=True, errors="replace",
            env={"PATH": os.defpath}, start_new_session=True, timeout=_TRY_SECONDS,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        raise RefusedError(f"a sandbox can't be started: {error}") from error
    *faults, last = done.stdout.splitlines() or [""]
    if last != _SOUND:
        said = done.stderr.strip()[-_SHOWN_CHARACTERS:] or f"it exited with {done.returncode}"
        raise RefusedError(f"a sandbox can't be made: {said}. {why_refused(said).rstrip('.')}")
    if faults:
        raise RefusedError(f"their sandbox does not confine them: {'; '.join(faults)}")
    if sandbox.whole != WholeLimits():
        _try_to_measure(sandbox, user, workdir)


def _try_to_measure(sandbox: Sandbox, user: ChildUser, workdir: Path) -> None:
    """Measure a sandbox from outside, as the limits of an attempt as a whole need it."""
    command = guarded_command(
        sandbox.command(("/bin/sh", "-c", "echo; read -r line"), workdir=workdir),
        become=user.ids,
        namespace=sandbox.namespace(),
    )
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        cwd=workdir, env={"PATH": os.defpath}, start_new_session=True,
    ) as process:  # fmt: skip
        try:
            assert process.stdout is not None
            select.select([process.stdout], [], [], _TRY_SECONDS)
            leader = identify(process.pid)
            pids = [] if leader is None else descendants_of([leader]).get(leader, [])
            # /tmp and /dev/shm themselves are two files
            measured = held_by(pids, [workdir]).files >= len(PRIVATE_PLACES)
            reason = "" if measured else "nothing of it can be seen"
        except UnmeasurableError as error:
            reason = str(error)
        finally:
            process.kill()
    if reason:
        raise RefusedError(
            "limits of an attempt as a whole (CELERIAC_CONFINEMENT_MEMORY_MB, _DISK_MB and _FILES) "
            f"can't be measured: {reason}. Give the worker the capability CAP_SYS_PTRACE, run it "
            "as a normal user, or unset them"
        )
