"""Processes of the machine: seen, signalled, traced, and their secrets."""

import ctypes
import os
import resource
import signal
from contextlib import suppress
from pathlib import Path

from tests.support.escapes.table import TARGETS, add, attempt, call, done, found

WORKER, SIBLING = TARGETS["worker"], TARGETS["sibling"]
CALLS = TARGETS["numbers"]
MARK = TARGETS["mark"]
"""Part of all values that nobody inside may see."""
ATTACH, SEIZE, TRACE_ME = 16, 0x4206, 0
F_SETOWN, F_SETSIG = 8, 10

for title, pid in (("the worker", WORKER), ("a sibling", SIBLING)):
    add(f"processes: signal {title}", done, os.kill, pid, 0)
    add(f"processes: signal the group of {title}", done, os.killpg, pid, 0)
    add(f"processes: queue a signal for {title}", call, "sigqueue", pid, 0, 0)
    add(f"processes: open {title}", done, os.pidfd_open, pid)
    add(f"processes: trace {title}", call, "ptrace", ATTACH, pid, None, None)
    add(f"processes: seize {title}", call, "ptrace", SEIZE, pid, None, None)
    add(f"processes: slow {title} down", done, os.setpriority, os.PRIO_PROCESS, pid, 19)
    add(f"processes: bind {title} to a processor", done, os.sched_setaffinity, pid, {0})
    add(f"processes: limit {title}", done, resource.prlimit, pid, resource.RLIMIT_NOFILE)
    add(f"processes: the group of {title}", done, os.getpgid, pid)
add("processes: be traced", call, "ptrace", TRACE_ME, 0, None, None)


@attempt("processes: trace a child")
def trace_child() -> str:
    """Trace a process of our own, as debuggers do."""
    child = os.fork()
    if child == 0:
        signal.pause()
        os._exit(0)
    try:
        return call("ptrace", ATTACH, child, None, None)
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def _memory_of(pid: int) -> str:
    """Read the memory of a process at an address that any has."""
    buffer = ctypes.create_string_buffer(8)
    local = (ctypes.c_void_p * 2)(ctypes.addressof(buffer), 8)
    return call("process_vm_readv", pid, local, 1, local, 1, 0)


add("processes: read the memory of the worker by a call", _memory_of, WORKER)
add("processes: read the memory of a sibling by a call", _memory_of, SIBLING)
add("processes: read the memory of the first process by a call", _memory_of, 1)


@attempt("processes: write the memory of the first process")
def write_first() -> str:
    """Open what lies behind /proc/1/mem, to write."""
    with open("/proc/1/mem", "r+b", 0) as file:
        file.seek(4096)
        return f"wrote {file.write(b'x')}"


@attempt("processes: take a descriptor of another")
def take_descriptor() -> str:
    """pidfd_getfd, of the first process."""
    with os.fdopen(os.pidfd_open(1)) as pidfd:
        return call("syscall", CALLS["pidfd_getfd"], pidfd.fileno(), 0, 0)


@attempt("processes: have a file signal the worker")
def signal_by_file() -> str:
    """Make the worker the owner of a pipe whose end is signalled."""
    ends = os.pipe()
    try:
        return call("fcntl", ends[0], F_SETOWN, WORKER)
    finally:
        for each in ends:
            os.close(each)


def _others() -> list[Path]:
    """Return the processes besides those of the sandbox: those that are older than its first."""
    return [
        each for each in Path("/proc").glob("[0-9]*") if _reads(each / "environ", f"{MARK}-env")
    ]


def _reads(path: Path, mark: str) -> bool:
    with suppress(OSError):
        return mark.encode() in path.read_bytes()
    return False


@attempt("processes: secrets in environments")
def environments() -> object:
    """Of all processes that can be seen, ours included."""
    return found([str(each) for each in _others()])


@attempt("processes: secrets in command lines")
def command_lines() -> object:
    """Of all processes that can be seen but ours, whose targets are arguments."""
    return found(
        [str(each) for each in Path("/proc").glob("[0-9]*/cmdline") if _reads(each, f"{MARK}-arg")]
    )


@attempt("processes: see those of the machine")
def seen() -> object:
    """Processes that were there before: their numbers are those of the machine."""
    pids = [int(each.name) for each in Path("/proc").glob("[0-9]*")]
    return found([each for each in (WORKER, SIBLING) if each in pids])


@attempt("processes: signal numbers up to those of the machine")
def probed() -> object:
    """A signal 0 ends nobody; who is there, and not ours, is somebody else's."""
    ours, strangers = {int(each.name) for each in Path("/proc").glob("[0-9]*")}, []
    for pid in range(2, 5_000):
        with suppress(ProcessLookupError):
            os.kill(pid, 0)
            threads = any(Path(f"/proc/{each}/task/{pid}").exists() for each in ours)
            if pid not in ours and not threads and not Path(f"/proc/{pid}").exists():
                strangers.append(pid)
    return found(strangers)


@attempt("processes: use inherited descriptors")
def descriptors() -> object:
    """Files that were left open for us, of places that we may not see."""
    home = str(Path(TARGETS["secret"]).parents[1])
    names = []
    for each in os.listdir("/proc/self/fd"):
        with suppress(OSError):
            names.append(os.readlink(f"/proc/self/fd/{each}"))
    ours = (str(Path.cwd()), *TARGETS["writes"])
    return found([each for each in names if each.startswith(home) and not each.startswith(ours)])


@attempt("processes: shared memory of others")
def shared_memory() -> object:
    """Segments of System V."""
    return found(Path("/proc/sysvipc/shm").read_text().splitlines()[1:])


@attempt("processes: semaphores and messages of others")
def messages() -> object:
    """The other objects of System V."""
    return found([line for name in ("sem", "msg")
                  for line in Path(f"/proc/sysvipc/{name}").read_text().splitlines()[1:]])  # fmt: skip


@attempt("processes: a key of the worker's session")
def session_key() -> str:
    """Search the session keyring."""
    return call("syscall", CALLS["keyctl"], 10, -3, b"user", b"celeriac-test", 0)


@attempt("processes: a keyring of our user")
def user_key() -> str:
    """Search the user's keyring, which all sessions of a user share."""
    return call("syscall", CALLS["keyctl"], 10, -4, b"user", b"celeriac-test", 0)
