"""Process groups on Linux: start children that die with us, and end all that came from them."""

import asyncio
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from celeriac.kit import guard
from celeriac.kit.guard import limit_resources, set_parent_death_signal
from celeriac.kit.proctable import (
    ProcessIdentity,
    find_members,
    identify,
    send_signal,
    still_running,
)
from celeriac.kit.threads import PROCESSES

__all__ = [
    "ProcessIdentity",
    "ResourceLimits",
    "UserIds",
    "children_descriptor_limit",
    "find_members",
    "guarded_command",
    "identify",
    "launch",
    "limit_resources",
    "raise_descriptor_limit",
    "send_signal",
    "set_parent_death_signal",
    "still_running",
    "terminate_group",
    "terminate_group_async",
]

_FIRST_POLL_SECONDS = 0.002
_LONGEST_POLL_SECONDS = 0.05
_KILL_SECONDS = 5.0
_AGAIN_SECONDS = 0.01


@dataclass(frozen=True, slots=True)
class ResourceLimits:
    """Limits of one process and, each for itself, of those it starts.

    `memory` in bytes (what it bounds: `limit_resources`), `cpu_seconds` of processor time.
    """

    memory: int | None = None
    cpu_seconds: int | None = None


NO_LIMITS = ResourceLimits()


class _Descriptors:
    """What the soft limit of open files was before this process has raised its own."""

    soft: int | None = None


def raise_descriptor_limit() -> int:
    """Let this process open as many files as its hard limit allows; return how many.

    Children of `guarded_command` get the soft limit back that there was before: programs that use
    select(2) break with descriptors above 1023.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        if _Descriptors.soft is None:
            _Descriptors.soft = soft
    return hard


def children_descriptor_limit() -> int | None:
    """Return the soft limit of open files that children must be given; None where it is ours."""
    return _Descriptors.soft


@dataclass(frozen=True, slots=True)
class UserIds:
    """The user and group that a process of root's takes on."""

    user: int
    group: int


def guarded_command(
    command: Sequence[str],
    *,
    limits: ResourceLimits = NO_LIMITS,
    death_signal: int = signal.SIGKILL,
    become: UserIds | None = None,
    lifeline: int | None = None,
) -> list[str]:
    """Return the arguments that start `command` under limits and that dies with its parent.

    `become` needs root; that user must be able to reach the program, but not this Python.
    For launchers of one's own, such as `asyncio.create_subprocess_exec`; give it
    `start_new_session=True`. The thread that starts it must outlive it (`guard`). Where the
    program can't be run, the exit code is 126 or 127 and stderr says why. `lifeline` is the read
    end of a pipe, to be passed on, that ends the whole group; without one, a parent-death signal
    ends the process alone (`guard`).
    """
    settings = (
        str(int(death_signal)),
        str(os.getpid()),
        "" if limits.memory is None else str(limits.memory),
        "" if limits.cpu_seconds is None else str(limits.cpu_seconds),
        "" if become is None else str(become.user),
        "" if become is None else str(become.group),
        "" if lifeline is None else str(lifeline),
        "" if _Descriptors.soft is None else str(_Descriptors.soft),
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
    become: UserIds | None = None,
) -> subprocess.Popen[bytes]:
    """Start `command` as the leader of its own session, under limits, to die with this thread.

    `env` None passes our environment on; `become` needs root (`guarded_command`). End it with
    `terminate_group`. Call this from a thread that lives as long as the child may (`guard`).
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


def terminate_group(
    leader: int | ProcessIdentity, grace_seconds: float, *, marker: str | None = None
) -> frozenset[ProcessIdentity]:
    """End a child and all that came from it: SIGTERM, up to `grace_seconds`, then SIGKILL.

    `leader` must have been started as the leader of its own session; a plain pid is right only
    while its parent hasn't reaped it. Processes that made a session of their own are found too
    (`find_members`). Blocks; works in any thread; reaps nothing. Returns what survived five
    seconds of SIGKILL: normally nothing.
    """
    steps = _termination(leader, grace_seconds, marker)
    while True:
        try:
            time.sleep(next(steps))
        except StopIteration as end:
            survivors: frozenset[ProcessIdentity] = end.value
            return survivors


async def terminate_group_async(
    leader: int | ProcessIdentity, grace_seconds: float, *, marker: str | None = None
) -> frozenset[ProcessIdentity]:
    """Do what `terminate_group` does without blocking the event loop.

    Cancelled on its way it leaves processes behind: shield it.
    """
    steps = _termination(leader, grace_seconds, marker)

    def next_step() -> float | frozenset[ProcessIdentity]:
        try:
            return next(steps)
        except StopIteration as end:
            survivors: frozenset[ProcessIdentity] = end.value
            return survivors

    while True:
        step = await PROCESSES.run(next_step)  # which may read the whole table of processes
        if not isinstance(step, float):
            return step
        await asyncio.sleep(step)


_Steps = Generator[float, None, frozenset[ProcessIdentity]]


def _termination(leader: int | ProcessIdentity, grace_seconds: float, marker: str | None) -> _Steps:
    """End a group; yields the seconds to sleep before it goes on, returns the survivors."""
    identity = identify(leader) if isinstance(leader, int) else leader
    if identity is None:
        return frozenset()
    known = yield from _found(identity, frozenset(), marker)
    if not known:
        return known
    if grace_seconds > 0:
        _signal_all(known, signal.SIGTERM)
        _signal_all(known, signal.SIGCONT)  # a stopped process would not see its SIGTERM
        yield from _wait_gone(known, time.monotonic() + grace_seconds)
    deadline = time.monotonic() + _KILL_SECONDS
    while (known := (yield from _found(identity, known, marker))) and time.monotonic() < deadline:
        _signal_all(known, signal.SIGKILL)
        yield from _wait_gone(known, deadline)
    return known


def _found(
    identity: ProcessIdentity, known: frozenset[ProcessIdentity], marker: str | None
) -> _Steps:
    """Look for members and, where none is seen, once more: amid an exec a process has no marker."""
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
    """Yield pauses until none of `processes` runs or the deadline comes."""
    left, pause = list(processes), _FIRST_POLL_SECONDS
    while left := [process for process in left if still_running(process)]:
        if time.monotonic() >= deadline:
            return
        yield pause
        pause = min(pause * 2, _LONGEST_POLL_SECONDS)
