"""Child processes: identity by start time, process groups, race-free signals."""

import asyncio
import ctypes
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import IO, NamedTuple

from celeriac.kit import child_bootstrap, seccomp
from celeriac.kit.threads import PROCESSES

_PROC = "/proc"
_CHUNK = 65_536


@dataclass(frozen=True, slots=True)
class ProcessIdentity:
    """A process, identified by pid and start time, because the kernel reuses pids.

    `started` is in clock ticks since boot, which wall-clock changes don't affect.
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
    """Return the identity of the process with `pid` (a zombie too), or None."""
    entry = _read_entry(pid)
    return entry.identity if entry else None


def still_running(process: ProcessIdentity) -> bool:
    """Whether exactly this process exists and is not a zombie."""
    entry = _read_entry(process.pid)
    return entry is not None and entry.identity == process and entry.running


def send_signal(process: ProcessIdentity, number: int) -> bool:
    """Send a signal to exactly this process; return False where it ended or is not ours."""
    try:
        handle = os.pidfd_open(process.pid)
    except OSError:
        return False
    try:
        # The descriptor refers to one process: after the check no other process can be hit.
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
    """Return `leader`, if it runs, and every running process that descends from it.

    Members are its descendants, all processes in the group or session of a member, and their
    descendants. `known` adds members found earlier, whose parents may have ended since. `marker`, a
    `NAME=value` in the leader's environment, finds daemons that left group and session.
    """
    table = _read_table()
    occupant = table.get(leader.pid)
    if occupant is None or occupant.identity == leader:
        # The kernel doesn't reuse a pid while a group or session has its number.
        pids = {leader.pid}
    else:
        pids = set()
    pids |= {each.pid for each in known if each.pid in table and table[each.pid].identity == each}
    pids.discard(os.getpid())
    _close_over(pids, table.values())
    if marker is not None:
        # Descendants were started after the leader, and most are found above: reading an
        # environment costs more than everything else here.
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


def descendants_of(leaders: Iterable[ProcessIdentity]) -> dict[ProcessIdentity, list[int]]:
    """Return for each leader that runs the pids below it, parents first; reads the table once."""
    table = _read_table()
    children: dict[int, list[int]] = {}
    for pid, entry in table.items():
        children.setdefault(entry.parent, []).append(pid)
    found: dict[ProcessIdentity, list[int]] = {}
    for leader in leaders:
        entry_of_leader = table.get(leader.pid)
        if entry_of_leader is None or entry_of_leader.identity != leader:
            continue
        members = list(children.get(leader.pid, ()))
        for pid in members:  # which grows
            members += children.get(pid, ())
        found[leader] = members
    return found


def _read_table() -> dict[int, _Entry]:
    """Return the process table by pid."""
    pids = (int(name) for name in os.listdir(_PROC) if name.isdigit())  # noqa: PTH208 - names are all we need
    return {pid: entry for pid in pids if (entry := _read_entry(pid))}


def _close_over(pids: set[int], table: Iterable[_Entry]) -> None:
    """Add to `pids` all children, and all processes in a group or session of a member."""
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


def _read_entry(pid: int) -> _Entry | None:
    """Read /proc/PID/stat (proc_pid_stat(5)): one read, so the figures belong together."""
    text = read_of_process(pid, "stat")
    if text is None:
        return None
    # The name, in brackets, may contain brackets and spaces; numbers follow the last bracket.
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
    environment = read_of_process(pid, "environ")
    if environment is None and os.geteuid() == 0:
        environment = _read_as_owner(pid, "environ")
    return environment is not None and marker.encode() in environment.split(b"\0")


def _read_as_owner(pid: int, name: str) -> bytes | None:
    """Read a file of /proc/PID with the rights of the user of that process.

    Root needs that in containers, where it has no CAP_SYS_PTRACE. The kernel checks the file system
    user of the thread (setfsuid(2)), which other threads don't share.
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
        return read_of_process(pid, name)
    finally:
        libc.setfsuid(user)
        libc.setfsgid(group)


def read_of_process(pid: int, name: str) -> bytes | None:
    """Read a file of /proc/PID; return None where the process has ended or may not be read.

    Without pathlib, for speed: the whole table is read for each child that ends.
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


_FIRST_POLL_SECONDS = 0.002
_LONGEST_POLL_SECONDS = 0.05
_KILL_SECONDS = 5.0
_AGAIN_SECONDS = 0.01


@dataclass(frozen=True, slots=True)
class ResourceLimits:
    """Limits of a process; its children inherit them, each for itself.

    `memory` is in bytes (`limit_resources` says what it limits), `cpu_seconds` in processor time,
    `file_bytes` the size of each file. `processes` is the limit of all of them together; it needs
    a `Namespace`, because elsewhere all processes of the user count.
    """

    memory: int | None = None
    cpu_seconds: int | None = None
    processes: int | None = None
    file_bytes: int | None = None


NO_LIMITS = ResourceLimits()


class _Descriptors:
    """The soft limit of open files before this process raised its own."""

    soft: int | None = None


def raise_descriptor_limit() -> int:
    """Raise the soft limit of open files to the hard limit; return it.

    Children of `guarded_command` get the former soft limit: programs that use select(2) fail with
    descriptors above 1023.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        if _Descriptors.soft is None:
            _Descriptors.soft = soft
    return hard


def children_descriptor_limit() -> int | None:
    """Return the soft limit of open files for children; None where it is ours."""
    return _Descriptors.soft


@dataclass(frozen=True, slots=True)
class UserIds:
    """The user and group that a process started by root takes on."""

    user: int
    group: int


@dataclass(frozen=True, slots=True)
class Namespace:
    """A user namespace of its own, and, if `alone`, a network that has only a loopback.

    For bubblewrap, which also gets a filter of system calls where there is one for this machine
    (`celeriac.kit.seccomp`). With `ports` the process listens there on its loopback, and sends the
    listening sockets over `channel`, the number of a Unix socket that is passed on
    (`child_bootstrap`). With `elsewhere` the program makes all that itself (`container_client`).
    """

    alone: bool
    channel: int | None = None
    ports: tuple[int, ...] = ()
    elsewhere: bool = False


def guarded_command(
    command: Sequence[str],
    *,
    limits: ResourceLimits = NO_LIMITS,
    death_signal: int = signal.SIGKILL,
    become: UserIds | None = None,
    lifeline: int | None = None,
    namespace: Namespace | None = None,
) -> list[str]:
    """Return the arguments that start `command` under limits, to die with its parent.

    `become` needs root; that user must be able to reach the program, but not this Python. For
    launchers such as `asyncio.create_subprocess_exec`, with `start_new_session=True`. The thread
    that starts the process must outlive it (`child_bootstrap`). Where the program can't be run, the
    exit code is 126 or 127 and stderr has the reason. `lifeline` is the read end of a pipe, to be
    passed on, that ends the whole group; without one, a parent-death signal ends the process alone.
    """
    user, group = (None, None) if become is None else (become.user, become.group)
    settings = (
        *(int(death_signal), os.getpid(), limits.memory, limits.cpu_seconds),
        *(user, group, lifeline, _Descriptors.soft),
        *(limits.processes, limits.file_bytes, *_namespace_settings(namespace)),
    )
    texts = ("" if each is None else str(each) for each in settings)
    return [sys.executable, "-I", "-S", child_bootstrap.__file__, *texts, *command]


def _namespace_settings(
    namespace: Namespace | None,
) -> tuple[str | None, str | None, str | None]:
    if namespace is None:
        return None, None, None
    network = child_bootstrap.ALONE if namespace.alone else child_bootstrap.SHARED
    if namespace.elsewhere:
        network = child_bootstrap.ELSEWHERE
    ports = ",".join(map(str, namespace.ports))
    listeners = None if namespace.channel is None else f"{namespace.channel}:{ports}"
    return network, listeners, _FILTER


_FILTER = None if (_program := seccomp.program()) is None else _program.hex()


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
    become: UserIds | None = None,
) -> subprocess.Popen[bytes]:
    """Start `command` as the leader of its own session, under limits, to die with this thread.

    `env` None passes our environment on; `become` needs root (`guarded_command`). End it with
    `terminate_group`. Call this from a thread that outlives the child.
    """
    return subprocess.Popen(
        guarded_command(command, limits=limits, death_signal=death_signal, become=become),
        env=env,
        cwd=cwd,
        stdin=stdin,
        stdout=stdout,
        stderr=stderr,
        start_new_session=True,
    )


class Asked(Enum):
    """The processes of a group that get SIGTERM before SIGKILL."""

    ALL = "all"
    INSIDE = "inside"
    """Not the leader and its child, which keep a pid namespace: with them all others would end
    without grace."""
    LEADER = "leader"
    """It asks the others itself."""


def terminate_group(
    leader: int | ProcessIdentity, grace_seconds: float, *, marker: str | None = None
) -> frozenset[ProcessIdentity]:
    """End a child and its descendants: SIGTERM, up to `grace_seconds`, then SIGKILL.

    `leader` must have been started as the leader of its own session; a plain pid is valid only
    until its parent has reaped it. Processes with a session of their own are found too
    (`find_members`). Blocks; works in any thread; reaps nothing. Returns the processes that
    survived five seconds of SIGKILL, normally none.
    """
    steps = _termination(leader, grace_seconds, marker)
    while isinstance(step := _next_step(steps), float):
        time.sleep(step)
    return step


async def terminate_group_async(
    leader: int | ProcessIdentity,
    grace_seconds: float,
    *,
    marker: str | None = None,
    asked: Asked = Asked.ALL,
) -> frozenset[ProcessIdentity]:
    """Do what `terminate_group` does without blocking the event loop.

    A cancellation leaves processes behind: shield it. Only the processes `asked` get SIGTERM.
    """
    steps = _termination(leader, grace_seconds, marker, asked=asked)
    while True:
        step = await PROCESSES.run(_next_step, steps)  # which may read the table of processes
        if not isinstance(step, float):
            return step
        await asyncio.sleep(step)


_Steps = Generator[float, None, frozenset[ProcessIdentity]]


def _next_step(steps: _Steps) -> float | frozenset[ProcessIdentity]:
    """Return the seconds to sleep before the next step, or the survivors after the last."""
    try:
        return next(steps)
    except StopIteration as end:
        survivors: frozenset[ProcessIdentity] = end.value
        return survivors


def _termination(
    leader: int | ProcessIdentity,
    grace_seconds: float,
    marker: str | None,
    *,
    asked: Asked = Asked.ALL,
) -> _Steps:
    """End a group: yield the seconds to sleep before the next step, return the survivors."""
    identity = identify(leader) if isinstance(leader, int) else leader
    if identity is None:
        return frozenset()
    known = yield from _found(identity, frozenset(), marker)
    if not known:
        return known
    chosen = _chosen(known, identity, asked)
    if grace_seconds > 0 and chosen:
        _signal_all(chosen, signal.SIGTERM)
        _signal_all(chosen, signal.SIGCONT)  # a stopped process handles no signals
        yield from _wait_gone(known, time.monotonic() + grace_seconds)
    deadline = time.monotonic() + _KILL_SECONDS
    while (known := (yield from _found(identity, known, marker))) and time.monotonic() < deadline:
        _signal_all(known, signal.SIGKILL)
        yield from _wait_gone(known, deadline)
    return known


def _chosen(
    known: frozenset[ProcessIdentity], leader: ProcessIdentity, asked: Asked
) -> frozenset[ProcessIdentity]:
    """Return the processes `asked` to end."""
    if asked is Asked.ALL:
        return known
    if asked is Asked.LEADER:
        return known & {leader}
    entries = {each: _read_entry(each.pid) for each in known if each != leader}
    return frozenset(
        each for each, entry in entries.items() if entry is not None and entry.parent != leader.pid
    )


def _found(
    identity: ProcessIdentity, known: frozenset[ProcessIdentity], marker: str | None
) -> _Steps:
    """Find the members, with a second try: during an exec a process has no marker."""
    found = find_members(identity, known=known, marker=marker)
    if not found and marker is not None:
        yield _AGAIN_SECONDS
        found = find_members(identity, known=known, marker=marker)
    return found


def _signal_all(processes: Iterable[ProcessIdentity], number: int) -> None:
    for process in processes:
        send_signal(process, number)


def _wait_gone(
    processes: Iterable[ProcessIdentity], deadline: float
) -> Generator[float, None, None]:
    """Yield pauses until none of `processes` runs, or until the deadline."""
    left, pause = list(processes), _FIRST_POLL_SECONDS
    while left := [process for process in left if still_running(process)]:
        if time.monotonic() >= deadline:
            return
        yield pause
        pause = min(pause * 2, _LONGEST_POLL_SECONDS)
