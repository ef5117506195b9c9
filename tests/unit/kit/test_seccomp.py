"""The filter of system calls, run by a small interpreter of its instructions."""

import errno
import struct

import pytest

from celeriac.kit import seccomp

LOAD, EQUAL, AT_LEAST, RETURN = 0x20, 0x15, 0x35, 0x06
ALLOWED, FAILS = 0x7FFF0000, 0x00050000
ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
SOCKET, IOCTL = {"x86_64": 41, "aarch64": 198}, {"x86_64": 16, "aarch64": 29}
PAIR = {"x86_64": 53, "aarch64": 199}
HIGH = 7 << 32
"""The kernel reads 32 bits of such an argument: the others must change nothing."""


def error_of(machine: str, number: int, *arguments: int, architecture: int | None = None) -> int:
    """Return the error with which a call fails, 0 if it is allowed."""
    program = seccomp.program(machine)
    assert program is not None
    instructions = list(struct.iter_unpack("<HBBI", program))
    given = (*arguments, *[0] * 6)[:6]
    code = ARCHITECTURES[machine] if architecture is None else architecture
    data = struct.pack("<iIQ6Q", number, code, 0, *given)
    at = word = 0
    while True:
        operation, then, otherwise, value = instructions[at]
        at += 1
        if operation == LOAD:
            (word,) = struct.unpack_from("<I", data, value)
        elif operation == EQUAL:
            at += then if word == value else otherwise
        elif operation == AT_LEAST:
            at += then if word >= value else otherwise
        else:
            assert operation == RETURN
            assert value == ALLOWED or value & FAILS
            return 0 if value == ALLOWED else value - FAILS


@pytest.mark.requirement("F25")
@pytest.mark.parametrize("machine", ARCHITECTURES)
def test_refused_calls_fail_and_no_other_does(machine: str) -> None:
    refused = set(seccomp.numbers(machine).values())
    assert len(refused) > 40

    found = {number: error_of(machine, number) for number in range(470)}

    assert {number for number, error in found.items() if error} == refused
    assert set(found.values()) == {0, errno.EPERM}


@pytest.mark.parametrize("machine", ARCHITECTURES)
@pytest.mark.parametrize("call", [SOCKET, PAIR], ids=["socket", "socketpair"])
def test_sockets_have_families_of_a_network_namespace(call: dict[str, int], machine: str) -> None:
    families = {family: error_of(machine, call[machine], family + HIGH, 1) for family in range(46)}
    assert {family for family, error in families.items() if not error} == {0, 1, 2, 10, 16}
    assert set(families.values()) == {0, errno.EAFNOSUPPORT}


@pytest.mark.parametrize("machine", ARCHITECTURES)
def test_nothing_is_typed_into_a_terminal(machine: str) -> None:
    requests = {
        each: error_of(machine, IOCTL[machine], 0, each + HIGH) for each in (0x5412, 0x541C)
    }
    assert set(requests.values()) == {errno.EPERM}
    assert error_of(machine, IOCTL[machine], 0, 0x5413) == 0, "the size of a terminal"
    assert error_of(machine, IOCTL[machine], 0x5412, 0) == 0, "another argument"


def test_calls_of_other_architectures_are_refused() -> None:
    assert error_of("x86_64", 0, architecture=0x40000003) == errno.EPERM, "32 bits"
    assert error_of("x86_64", 0x40000000) == errno.EPERM, "x32"


def test_an_unknown_machine_has_no_filter() -> None:
    assert seccomp.program("riscv64") is None
