"""A filter of system calls for confined programs, as a program of classic BPF (seccomp(2)).

It refuses what agents' programs do not need and what has led out of containers or reaches past
their namespaces: mounts, other namespaces, tracing, keyrings, eBPF, io_uring, userfaultfd, kernel
modules, clocks, and sockets of other families than those of IP, Unix and netlink. The host of a
virtual machine, for example, can be reached over AF_VSOCK from any network namespace. A refused
call fails with EPERM, a socket with EAFNOSUPPORT. Docker's default profile refuses much the same.
"""

import errno
import platform
import struct
from collections.abc import Iterator

_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
"""Instructions: load a word, jump if it equals, reaches or shares bits with a constant, return
(linux/filter.h)."""

_ALLOW, _ERROR = 0x7FFF0000, 0x00050000
"""Results: allow the call, or let it fail with the number that is added (linux/seccomp.h)."""

_NUMBER, _ARCHITECTURE, _FIRST, _SECOND = 0, 4, 16, 24
"""Where a call's number, architecture and arguments are; both architectures are little-endian."""

_ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_X32 = 0x40000000
"""From this number on, calls of x86_64 are those of its 32-bit variant, under other numbers."""

_REFUSED = {
    # name: (x86_64, aarch64), from the kernel's tables; None where it does not exist
    "acct": (163, 89),
    "add_key": (248, 217),
    "bpf": (321, 280),
    "chroot": (161, 51),
    "clock_settime": (227, 112),
    "delete_module": (176, 106),
    "fanotify_init": (300, 262),
    "finit_module": (313, 273),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fsopen": (430, 430),
    "fspick": (433, 433),
    "init_module": (175, 105),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "io_uring_setup": (425, 425),
    "ioperm": (173, None),
    "iopl": (172, None),
    "kcmp": (312, 272),
    "kexec_file_load": (320, 294),
    "kexec_load": (246, 104),
    "keyctl": (250, 219),
    "mount": (165, 40),
    "mount_setattr": (442, 442),
    "move_mount": (429, 429),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    "open_tree": (428, 428),
    "perf_event_open": (298, 241),
    "pidfd_getfd": (438, 438),
    "pivot_root": (155, 41),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "ptrace": (101, 117),
    "quotactl": (179, 60),
    "quotactl_fd": (443, 443),
    "reboot": (169, 142),
    "request_key": (249, 218),
    "setdomainname": (171, 162),
    "sethostname": (170, 161),
    "setns": (308, 268),
    "settimeofday": (164, 170),
    "swapoff": (168, 225),
    "swapon": (167, 224),
    "syslog": (103, 116),
    "umount2": (166, 39),
    "unshare": (272, 97),
    "userfaultfd": (323, 282),
    "vhangup": (153, 58),
}
REFUSED = tuple(_REFUSED)
"""The names of the calls that are always refused."""

_SOCKET, _PAIR = (41, 198), (53, 199)
_FAMILIES = (0, 1, 2, 10, 16)
"""AF_UNSPEC, AF_UNIX, AF_INET, AF_INET6, AF_NETLINK."""

_IOCTL = (16, 29)
_TERMINAL_INPUT = (0x5412, 0x541C)
"""TIOCSTI and TIOCLINUX, which type into the terminal that a process was started from."""


_CLONE = (56, 220)
_CLONE_3 = 435
_OF_NAMESPACES = 0x7E020080
"""The flags of clone(2) that make namespaces."""


def program(machine: str | None = None, *, refuses_clones: bool = False) -> bytes | None:
    """Return the filter for `machine`, by default this one; None where no table is known for it.

    With `refuses_clones` a child can't be started in other namespaces, where nothing else forbids
    that: clone3(2), whose arguments no filter sees, does not exist then, and libraries use
    clone(2).
    """
    name = platform.machine() if machine is None else machine
    if name not in _ARCHITECTURES:
        return None
    column = tuple(_ARCHITECTURES).index(name)
    clones = _no_clones(_CLONE[column]) if refuses_clones else ()
    return b"".join(
        struct.pack("<HBBI", code, then, otherwise, value)
        for code, then, otherwise, value in (
            *_instructions(_ARCHITECTURES[name], column),
            *clones,
            (_RETURN, 0, 0, _ALLOW),
        )
    )


def numbers(machine: str) -> dict[str, int]:
    """Return the numbers of the refused calls on `machine`, by name."""
    column = tuple(_ARCHITECTURES).index(machine)
    found = {name: each[column] for name, each in _REFUSED.items()}
    return {name: number for name, number in found.items() if number is not None}


def _instructions(architecture: int, column: int) -> Iterator[tuple[int, int, int, int]]:
    yield _LOAD, 0, 0, _ARCHITECTURE
    yield _EQUAL, 1, 0, architecture
    yield _RETURN, 0, 0, _ERROR + errno.EPERM
    yield _LOAD, 0, 0, _NUMBER
    yield _AT_LEAST, 0, 1, _X32
    yield _RETURN, 0, 0, _ERROR + errno.EPERM
    for each in _REFUSED.values():
        number = each[column]
        if number is not None:
            yield _EQUAL, 0, 1, number
            yield _RETURN, 0, 0, _ERROR + errno.EPERM
    for call in (_SOCKET, _PAIR):
        yield from _only_arguments(call[column], _FIRST, _FAMILIES, errno.EAFNOSUPPORT)
    yield from _no_arguments(_IOCTL[column], _SECOND, _TERMINAL_INPUT, errno.EPERM)


def _no_clones(number: int) -> Iterator[tuple[int, int, int, int]]:
    """Refuse clone(2), which is `number`, with a flag of a namespace, and clone3(2) as unknown."""
    yield _EQUAL, 0, 1, _CLONE_3
    yield _RETURN, 0, 0, _ERROR + errno.ENOSYS
    yield _EQUAL, 0, 3, number
    yield _LOAD, 0, 0, _FIRST
    yield _ANY_BIT, 0, 1, _OF_NAMESPACES
    yield _RETURN, 0, 0, _ERROR + errno.EPERM


def _only_arguments(
    number: int, place: int, allowed: tuple[int, ...], error: int
) -> Iterator[tuple[int, int, int, int]]:
    """Allow a call only with one of these values as an argument, of which 32 bits count."""
    yield _EQUAL, 0, len(allowed) + 3, number
    yield _LOAD, 0, 0, place
    for left, value in zip(range(len(allowed), 0, -1), allowed, strict=True):
        yield _EQUAL, left, 0, value
    yield _RETURN, 0, 0, _ERROR + error
    yield _RETURN, 0, 0, _ALLOW


def _no_arguments(
    number: int, place: int, refused: tuple[int, ...], error: int
) -> Iterator[tuple[int, int, int, int]]:
    """Refuse a call with one of these values as an argument, of which 32 bits count."""
    yield _EQUAL, 0, len(refused) + 3, number
    yield _LOAD, 0, 0, place
    for left, value in zip(range(len(refused), 0, -1), refused, strict=True):
        yield _EQUAL, left, 0, value
    yield _RETURN, 0, 0, _ALLOW
    yield _RETURN, 0, 0, _ERROR + error
