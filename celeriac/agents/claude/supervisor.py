"""The process between a worker and Claude Code: when either ends, nothing of it is left.

Run by its path, as a small program. It takes on every process that Claude Code's tools leave
behind (PR_SET_CHILD_SUBREAPER), hears of its worker's death from the kernel, and ends when Claude
Code does; then it ends all that is left. Claude Code sees only the environment that it is meant
to: the worker's secrets stay here.
"""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import psutil

from celeriac.kit.child_bootstrap import hide_memory, set_parent_death_signal
from celeriac.kit.processes import UserIds, guarded_command, identify

_PR_SET_CHILD_SUBREAPER = 36
_STOP = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_GRACE_SECONDS = 1.0
"""How long Claude Code may take to end its tools when it is stopped."""

_LEFTOVER_SECONDS = 0.3
"""How long what it left behind may take, once it has ended by itself."""

_KILL_SECONDS = 0.5


def main(arguments: Sequence[str]) -> int:
    """Run Claude Code to its end and return its exit code.

    Arguments: the worker's pid, the file that gets our pid and start, `uid:gid` of who Claude Code
    runs as (empty: us), names of the environment variables that are passed on (with commas), Claude
    Code's program and its arguments.
    """
    worker, record, user, names, *command = arguments
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
    child = subprocess.Popen(
        guarded_command(
            command,
            death_signal=signal.SIGTERM,
            become=UserIds(*map(int, user.split(":"))) if user else None,
        ),
        env={name: value for name, value in os.environ.items() if name in allowed},
    )
    _let_go_of_pipes()
    code = _wait(child.pid)
    _end_all(_GRACE_SECONDS if code is None else _LEFTOVER_SECONDS)
    return 128 + signal.SIGTERM if code is None else code


def _become_subreaper() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"prctl(PR_SET_CHILD_SUBREAPER): {os.strerror(error)}")


def _let_go_of_pipes() -> None:
    """Leave stdin and stdout to Claude Code alone, so that their ends are seen."""
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1):
        os.dup2(nothing, descriptor)
    os.close(nothing)


def _wait(child: int) -> int | None:
    """Return the exit code of `child`, or None once a stop was requested."""
    while True:
        if signal.sigwait({*_STOP, signal.SIGCHLD}) != signal.SIGCHLD:
            return None
        for pid, status in _reap():
            if pid == child:
                code = os.waitstatus_to_exitcode(status)
                return code if code >= 0 else 128 - code


def _reap() -> list[tuple[int, int]]:
    """Collect all children that have ended, adopted ones among them."""
    ended = []
    with contextlib.suppress(ChildProcessError):
        while (each := os.waitpid(-1, os.WNOHANG))[0]:
            ended.append(each)
    return ended


def _end_all(grace_seconds: float) -> None:
    """End everything that came from us: SIGTERM, a moment, then SIGKILL until nothing is left."""
    ourselves = psutil.Process()
    everything = ourselves.children(recursive=True)
    for process in everything:
        _tell(process, signal.SIGTERM)
        _tell(process, signal.SIGCONT)  # a stopped process would not see its SIGTERM
    psutil.wait_procs(everything, timeout=grace_seconds)
    while left := ourselves.children(recursive=True):
        for process in left:
            _tell(process, signal.SIGKILL)
        psutil.wait_procs(left, timeout=_KILL_SECONDS)


def _tell(process: psutil.Process, number: int) -> None:
    with contextlib.suppress(psutil.Error):  # it has ended meanwhile
        process.send_signal(number)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
