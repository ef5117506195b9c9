"""Process groups on Linux: start children that die with us, and end all that came from them."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, NamedTuple

from celeriac.kit import guard
from celeriac.kit.guard import limit_resources, set_parent_death_signal

__all__ = [
    "ProcessIdentity",
    "ResourceLimits",
    "find_members",
    "guarded_command",
    "identify",
    "launch",
    "limit_resources",
    "send_signal",
    "set_parent_death_signal",
    "still_running",
    "terminate_group",
]

_PROC = Path("/proc")
_POLL_SECONDS = 0.02
_KILL_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class ResourceLimits:
    """Limits of one process and, each for itself, of those it starts.

    `memory` in bytes (what it bounds: `limit_resources`), `cpu_seconds` of processor time.
    """

    memory: int | None = None
    cpu_seconds: int | None = None


NO_LIMITS = ResourceLimits()


@dataclass(frozen=True, slots=True)
class ProcessIdentity:
    """One process for all time: its pid with its start, since the kernel uses pids again.

    `started` is in clock ticks since boot; unlike a wall-clock time it never shifts.
    """

    pid: int
    started: int


class _Entry(NamedTuple):
    """One line of the process table."""

    identity: ProcessIdentity
    parent: int
    group: int
    session: int
    running: bool


def identify(pid: int) -> ProcessIdentity | None:
    """Return the identity of the process that has `pid` now (a zombie too), or None."""
    entry = _read_entry(pid)
    return entry.identity if entry else None


def still_running(process: ProcessIdentity) -> bool:
    """Whether this very process exists and is no zombie."""
    entry = _read_entry(process.pid)
    return entry is not None and entry.identity == process and entry.running


def send_signal(process: ProcessIdentity, number: int) -> bool:
    """Send a signal to this very process; False where it has gone or isn't ours to signal."""
    if not still_running(process):
        return False
    try:
        os.kill(process.pid, number)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def guarded_command(
    command: Sequence[str],
    *,
    limits: ResourceLimits = NO_LIMITS,
    death_signal: int = signal.SIGKILL,
) -> list[str]:
    """Return the arguments that start `command` under limits and with a parent-death signal.

    For launchers of one's own, such as `asyncio.create_subprocess_exec`; give it
    `start_new_session=True`. The thread that starts it must outlive it (`guard`). Where the
    program can't be run, the exit code is 126 or 127 and stderr says why.
    """
    settings = (
        str(int(death_signal)),
        str(os.getpid()),
        "" if limits.memory is None else str(limits.memory),
        "" if limits.cpu_seconds is None else str(limits.cpu_seconds),
    )
    return [sys.executable, "-I", "-S", guard.__file__, *settings, *command]


def launch(
    command: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    cwd: str | Path | None = None,
    stdin: int | IO[bytes] | None = subprocess.DEVNULL,
    stdout: int | IO[bytes] | None = None,
    stderr: int | IO[bytes] | None = None,
    limits: ResourceLimits = NO_LIMITS,
    death_signal: int = signal.SIGKILL,
    user: str | int | None = None,
    group: str | int | None = None,
) -> subprocess.Popen[bytes]:
    """Start `command` as the leader of its own session, under limits, to die with this thread.

    `env` None passes our environment on; `user` and `group` need root. End it with
    `terminate_group`. Call this from a thread that lives as long as the child may (`guard`).
    """
    return subprocess.Popen(
        guarded_command(command, limits=limits, death_signal=death_signal),
        env=env,
        cwd=cwd,
        stdin=stdin,
        stdout=stdout,
        stderr=stderr,
        user=user,
        group=group,
        start_new_session=True,
    )


def find_members(
    leader: ProcessIdentity, *, known: Iterable[ProcessIdentity] = (), marker: str | None = None
) -> frozenset[ProcessIdentity]:
    """Return every running process that came from `leader`, itself included.

    Members are its descendants, whatever is in the group or session of a member, and descendants
    of those; `known` adds members found earlier, whose parents may have died since. `marker`, a
    `NAME=value` set in the leader's environment, finds even daemons that cut every tie.
    """
    table = {entry.identity.pid: entry for entry in _read_table()}
    occupant = table.get(leader.pid)
    if occupant is None or occupant.identity == leader:
        # The kernel gives a pid to nobody else while a group or session bears its number.
        pids = {leader.pid}
    else:
        pids = set()
    pids |= {each.pid for each in known if each.pid in table and table[each.pid].identity == each}
    if marker is not None:
        pids |= {pid for pid in table if _has_marker(pid, marker)}
    pids.discard(os.getpid())
    _close_over(pids, table.values())
    return frozenset(table[pid].identity for pid in pids if pid in table and table[pid].running)


def terminate_group(
    leader: int | ProcessIdentity, grace_seconds: float, *, marker: str | None = None
) -> frozenset[ProcessIdentity]:
    """End a child and all that came from it: SIGTERM, up to `grace_seconds`, then SIGKILL.

    `leader` must have been started as the leader of its own session; a plain pid is right only
    while its parent hasn't reaped it. Processes that made a session of their own are found too
    (`find_members`). Blocks; works in any thread; reaps nothing. Returns what survived five
    seconds of SIGKILL: normally nothing.
    """
    if isinstance(leader, int):
        identity = identify(leader)
        if identity is None:
            return frozenset()
        leader = identity
    known = find_members(leader, marker=marker)
    if grace_seconds > 0:
        _signal_all(known, signal.SIGTERM)
        _signal_all(known, signal.SIGCONT)  # a stopped process would not see its SIGTERM
        _wait_gone(known, time.monotonic() + grace_seconds)
    deadline = time.monotonic() + _KILL_SECONDS
    while known := find_members(leader, known=known, marker=marker):
        _signal_all(known, signal.SIGKILL)
        if not _wait_gone(known, deadline):
            break
    return known


def _signal_all(processes: Iterable[ProcessIdentity], number: int) -> None:
    for process in processes:
        send_signal(process, number)


def _wait_gone(processes: Iterable[ProcessIdentity], deadline: float) -> bool:
    """Wait until none of `processes` runs; False where the deadline came first."""
    left = list(processes)
    while left := [process for process in left if still_running(process)]:
        if time.monotonic() >= deadline:
            return False
        time.sleep(_POLL_SECONDS)
    return True


def _close_over(pids: set[int], table: Iterable[_Entry]) -> None:
    """Add to `pids` the children of each and all in a group or session named after one."""
    ours = os.getpid()
    entries = [entry for entry in table if entry.identity.pid != ours]
    size = -1
    while size != len(pids):
        size = len(pids)
        pids |= {
            entry.identity.pid
            for entry in entries
            if entry.parent in pids or entry.group in pids or entry.session in pids
        }


def _read_table() -> list[_Entry]:
    entries = (_read_entry(int(name)) for name in os.listdir(_PROC) if name.isdigit())
    return [entry for entry in entries if entry is not None]


def _read_entry(pid: int) -> _Entry | None:
    """Read /proc/PID/stat (proc_pid_stat(5)): one read, so the figures belong together."""
    try:
        text = (_PROC / str(pid) / "stat").read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return None
    # The name, in brackets, may itself hold brackets and spaces; numbers follow the last one.
    fields = text.rpartition(")")[2].split()
    return _Entry(
        identity=ProcessIdentity(pid, started=int(fields[19])),
        parent=int(fields[1]),
        group=int(fields[2]),
        session=int(fields[3]),
        running=fields[0] not in "ZX",
    )


def _has_marker(pid: int, marker: str) -> bool:
    try:
        environment = (_PROC / str(pid) / "environ").read_bytes()
    except OSError:
        return False  # gone, or another user's: not one of ours
    return marker.encode() in environment.split(b"\0")
