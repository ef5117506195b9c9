"""The process table of Linux: who is who, who came from whom, and signals that can't go astray."""

import ctypes
import os
import signal
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

_PROC = "/proc"
_CHUNK = 65_536


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
    try:
        handle = os.pidfd_open(process.pid)
    except OSError:
        return False
    try:
        # The handle holds on to whoever has the pid: once checked, nobody else can be hit.
        if not still_running(process):
            return False
        signal.pidfd_send_signal(handle, number)
    except (ProcessLookupError, PermissionError):
        return False
    finally:
        os.close(handle)
    return True


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
    pids.discard(os.getpid())
    _close_over(pids, table.values())
    if marker is not None:
        # Whoever came from the leader was started after it, and most are found by their ties:
        # reading an environment costs more than all the rest.
        pids |= {
            pid
            for pid, entry in table.items()
            if pid not in pids
            and pid != os.getpid()
            and entry.running
            and entry.identity.started >= leader.started
            and _has_marker(pid, marker)
        }
        _close_over(pids, table.values())
    return frozenset(table[pid].identity for pid in pids if pid in table and table[pid].running)


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
    entries = (_read_entry(int(name)) for name in os.listdir(_PROC) if name.isdigit())  # noqa: PTH208 - names are all we need
    return [entry for entry in entries if entry is not None]


def _read_entry(pid: int) -> _Entry | None:
    """Read /proc/PID/stat (proc_pid_stat(5)): one read, so the figures belong together."""
    text = _read(pid, "stat")
    if text is None:
        return None
    # The name, in brackets, may itself hold brackets and spaces; numbers follow the last one.
    fields = text.rpartition(b")")[2].split()
    return _Entry(
        identity=ProcessIdentity(pid, started=int(fields[19])),
        parent=int(fields[1]),
        group=int(fields[2]),
        session=int(fields[3]),
        # A main thread that has ended looks like a zombie while other threads still run.
        running=fields[0] not in (b"Z", b"X") or int(fields[17]) > 1,
    )


def _has_marker(pid: int, marker: str) -> bool:
    environment = _read(pid, "environ")
    if environment is None and os.geteuid() == 0:
        environment = _read_as_owner(pid, "environ")
    return environment is not None and marker.encode() in environment.split(b"\0")


def _read_as_owner(pid: int, name: str) -> bytes | None:
    """Read a file of /proc/PID with the rights of that process's user.

    Root needs that in containers, where it has no CAP_SYS_PTRACE. The kernel looks at the user that
    a thread accesses files as (setfsuid(2)), which is this thread's alone.
    """
    try:
        owner = os.stat(f"{_PROC}/{pid}")  # noqa: PTH116 - names are all we need
    except OSError:
        return None
    if owner.st_uid == 0:
        return None
    libc = ctypes.CDLL(None)
    user, group = libc.setfsuid(owner.st_uid), libc.setfsgid(owner.st_gid)
    try:
        return _read(pid, name)
    finally:
        libc.setfsuid(user)
        libc.setfsgid(group)


def _read(pid: int, name: str) -> bytes | None:
    """Read a file of /proc/PID; None where the process has gone or isn't ours to look at.

    Without pathlib: the whole table is read for each child that ends.
    """
    try:
        descriptor = os.open(f"{_PROC}/{pid}/{name}", os.O_RDONLY | os.O_CLOEXEC)
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return None
    try:
        parts = []
        while part := os.read(descriptor, _CHUNK):
            parts.append(part)
        return b"".join(parts)
    except (ProcessLookupError, PermissionError):
        return None
    finally:
        os.close(descriptor)
