"""The process between a worker and Claude Code: when either ends, nothing of it is left.

Run by its path, as a small program. It takes on every process that Claude Code's tools leave
behind (PR_SET_CHILD_SUBREAPER), hears of its worker's death from the kernel, and ends when Claude
Code does; then it ends all that is left. Claude Code sees only the environment that it is meant
to: the worker's secrets stay here.
"""

import contextlib
import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from celeriac.kit.child_bootstrap import (
    SIGNALLED,
    exit_code,
    hide_memory,
    let_go_of_pipes,
    set_parent_death_signal,
)
from celeriac.kit.processes import (
    NO_LIMITS,
    Asked,
    Namespace,
    ResourceLimits,
    UserIds,
    guarded_command,
    identify,
)

_PR_SET_CHILD_SUBREAPER = 36
_STOP = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_GRACE_SECONDS = 1.0
"""How long Claude Code may take to end its tools when it is stopped."""

_LEFTOVER_SECONDS = 0.3
"""How long what it left behind may take, once it has ended by itself."""

_KILL_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Bounds:
    """The sandbox of Claude Code, as far as the supervisor makes it.

    `name` is the abstract Unix socket of the worker to which the listening sockets for `ports` go.
    `limits` are the values of `ResourceLimits`. With `elsewhere` the program makes the sandbox.
    """

    alone: bool
    elsewhere: bool
    ports: list[int]
    name: str
    limits: dict[str, int | None]

    def text(self) -> str:
        """Return it as an argument of `main`."""
        return json.dumps(asdict(self))

    @classmethod
    def read(cls, text: str) -> "Bounds":
        """Read an argument of `main`."""
        return cls(**json.loads(text))

    def namespace(self, stack: contextlib.ExitStack) -> Namespace:
        """Return the namespace; its channel to the worker is open until `stack` ends."""
        if not self.alone:
            return Namespace(alone=False)
        channel = stack.enter_context(socket.socket(socket.AF_UNIX))
        channel.connect(f"\0{self.name}")
        return Namespace(
            alone=True,
            channel=channel.fileno(),
            ports=tuple(self.ports),
            elsewhere=self.elsewhere,
        )


def main(arguments: Sequence[str]) -> int:
    """Run Claude Code to its end and return its exit code.

    Arguments: the worker's pid, the file that gets our pid and start, `uid:gid` of who Claude Code
    runs as (empty: us), names of the environment variables that are passed on (with commas), the
    `Bounds` of its sandbox as JSON (empty: none), Claude Code's program and its arguments; in a
    sandbox the program that makes it comes first.
    """
    worker, record, user, names, described, *command = arguments
    bounds = Bounds.read(described) if described else None
    hide_memory()
    ourselves = identify(os.getpid())
    assert ourselves is not None, "a running process has an entry"
    Path(record).write_text(f"{ourselves.pid} {ourselves.started}")
    # Blocked, they wait for `sigwait`; the guard unblocks them for Claude Code.
    signal.pthread_sigmask(signal.SIG_BLOCK, {*_STOP, signal.SIGCHLD})
    os.setsid()
    _become_subreaper()
    set_parent_death_signal(signal.SIGTERM, int(worker))
    allowed = set(names.split(","))
    with contextlib.ExitStack() as stack:
        namespace = None if bounds is None else bounds.namespace(stack)
        channel = () if namespace is None or namespace.channel is None else (namespace.channel,)
        child = subprocess.Popen(
            guarded_command(
                command,
                limits=NO_LIMITS if bounds is None else ResourceLimits(**bounds.limits),
                death_signal=signal.SIGTERM,
                become=UserIds(*map(int, user.split(":"))) if user else None,
                namespace=namespace,
            ),
            env={name: value for name, value in os.environ.items() if name in allowed},
            pass_fds=channel,
        )
    let_go_of_pipes()
    code = _wait(child.pid)
    grace_seconds = _GRACE_SECONDS if code is None else _LEFTOVER_SECONDS
    _end_all(grace_seconds, child.pid, _asked(bounds))
    return SIGNALLED + signal.SIGTERM if code is None else code


def _become_subreaper() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"prctl(PR_SET_CHILD_SUBREAPER): {os.strerror(error)}")


def _wait(child: int) -> int | None:
    """Return the exit code of `child`, or None once a stop was requested."""
    while True:
        if signal.sigwait({*_STOP, signal.SIGCHLD}) != signal.SIGCHLD:
            return None
        for pid, status in _reap():
            if pid == child:
                return exit_code(status)


def _reap() -> list[tuple[int, int]]:
    """Collect all children that have ended, adopted ones among them."""
    ended = []
    with contextlib.suppress(ChildProcessError):
        while (each := os.waitpid(-1, os.WNOHANG))[0]:
            ended.append(each)
    return ended


def _asked(bounds: Bounds | None) -> Asked:
    if bounds is None:
        return Asked.ALL
    return Asked.LEADER if bounds.elsewhere else Asked.INSIDE


def _end_all(grace_seconds: float, leader: int, asked: Asked) -> None:
    """End everything that came from us: SIGTERM, a moment, then SIGKILL until nothing is left.

    Only the processes `asked` get SIGTERM, of which our child is the leader.
    """
    ourselves = psutil.Process()
    everything = ourselves.children(recursive=True)
    for process in everything:
        if not _is_asked(process, leader, asked):
            continue
        _tell(process, signal.SIGTERM)
        _tell(process, signal.SIGCONT)  # a stopped process would not see its SIGTERM
    psutil.wait_procs(everything, timeout=grace_seconds)
    while left := ourselves.children(recursive=True):
        for process in left:
            _tell(process, signal.SIGKILL)
        psutil.wait_procs(left, timeout=_KILL_SECONDS)


def _is_asked(process: psutil.Process, leader: int, asked: Asked) -> bool:
    if asked is Asked.LEADER:
        return process.pid == leader
    with contextlib.suppress(psutil.Error):
        return asked is Asked.ALL or leader not in {process.pid, process.ppid()}
    return True


def _tell(process: psutil.Process, number: int) -> None:
    with contextlib.suppress(psutil.Error):  # it has ended meanwhile
        process.send_signal(number)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
