"""Calls of the system that are refused by themselves, whatever their arguments are."""

import ctypes
import errno
import os

from tests.support.escapes.table import LIBC, TARGETS, NothingGotError, add

X32 = 0x40000000
"""The 32-bit variant of the calls of x86-64."""


def refused(number: int, *arguments: int) -> str:
    """Make a call that is harmless where it succeeds. Only EPERM counts as its refusal."""
    result = LIBC.syscall(number, *(arguments or (0,) * 6))
    error = ctypes.get_errno()
    if result == -1 and error == errno.EPERM:
        raise NothingGotError(os.strerror(error))
    return f"returned {result}, {os.strerror(error)}"


for name, number in TARGETS["numbers"].items():
    add(f"calls: {name}", refused, number)
    if os.uname().machine == "x86_64" and name in {"ptrace", "mount", "bpf", "keyctl", "unshare"}:
        add(f"calls: {name} by its 32-bit variant", refused, number | X32)
