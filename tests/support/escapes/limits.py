"""Using up what others need: memory, processes, disk."""

import os
import resource
import signal
from pathlib import Path

from tests.support.escapes.table import TARGETS, attempt

MEGABYTE = 1024 * 1024


def _filled(path: str, megabytes: int) -> str:
    """Write so many megabytes."""
    block = b"x" * MEGABYTE
    try:
        with open(path, "wb") as file:
            file.writelines(block for _ in range(megabytes))
        return f"wrote {megabytes} MB"
    finally:
        Path(path).unlink()


@attempt("limits: fill /tmp")
def fill() -> str:
    """Write more than it may have."""
    return _filled("/tmp/big", TARGETS["tmp_mb"] + 1)


@attempt("limits: fill /tmp with many files")
def fill_with_files() -> str:
    """Each smaller than any limit of a file."""
    paths = [Path(f"/tmp/big-{number}") for number in range(TARGETS["tmp_mb"] + 1)]
    try:
        for each in paths:
            each.write_bytes(b"x" * MEGABYTE)
        return f"wrote {len(paths)} MB"
    finally:
        for each in paths:
            each.unlink(missing_ok=True)


@attempt("limits: fill /dev/shm")
def fill_shared() -> str:
    """Write more than it may have."""
    return _filled("/dev/shm/big", TARGETS["tmp_mb"] + 1)


@attempt("limits: a file that is too large")
def large() -> str:
    """Write one. Python ignores the signal, and gets an error."""
    return _filled("big", TARGETS["file_mb"] + 1)


@attempt("limits: a file with a hole that is too large")
def sparse() -> str:
    """Set the length of one."""
    with open("sparse", "wb") as file:
        try:
            file.truncate((TARGETS["file_mb"] + 1) * MEGABYTE)
        finally:
            Path("sparse").unlink()
    return "made one"


@attempt("limits: more processes")
def fork_bomb() -> str:
    """Start as many as may run, and one."""
    pids: list[int] = []
    try:
        while len(pids) <= TARGETS["processes"]:
            pid = os.fork()
            if pid == 0:
                signal.pause()
                os._exit(0)
            pids.append(pid)
        return f"{len(pids)} processes"
    finally:
        for each in pids:
            os.kill(each, signal.SIGKILL)
            os.waitpid(each, 0)


if TARGETS["memory_mb"]:

    @attempt("limits: more memory")
    def memory() -> int:
        """Take more than a process may have."""
        return len(bytearray((TARGETS["memory_mb"] + 64) * MEGABYTE))

    @attempt("limits: a higher limit of memory")
    def memory_limit() -> str:
        """Take the limit away."""
        resource.setrlimit(resource.RLIMIT_DATA, (-1, -1))
        return "no limit"
