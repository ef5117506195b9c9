"""What a container is tried with: it prints what is wrong with its confinement, then one word.

Standard library only, and run by its path inside: `python3 -I -S container_probe.py FACTS`, where
`FACTS` is JSON (`celeriac.wiring.containers`).
"""

import contextlib
import errno
import json
import os
import re
import socket
import sys
from collections.abc import Iterator
from typing import Any

SOUND = "confined"
_SECONDS = 1.0
_LOOPBACK_DEVICE = "lo"
_DEVICES_HEAD = 2
_FEW = 100
_CAPABILITIES = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")
_OWN_VARIABLES = frozenset({"LC_CTYPE"})  # this Python sets it
_OF_SYSTEM = ("/usr", "/etc", "/bin", "/var", "/run", "/dev")
_PRIVATE = frozenset({"/tmp", "/dev/shm", "/dev/mqueue"})  # noqa: S108
"""Of the container alone, and in memory; message queues have a limit of their own."""


def main(text: str) -> int:
    """Look around, and report."""
    facts: dict[str, Any] = json.loads(text)
    sys.stdout.write("".join(f"{line}\n" for line in (*_faults(facts), SOUND)))
    return 0


def _faults(facts: dict[str, Any]) -> Iterator[str]:
    yield from _of_secrets(facts)
    yield from _of_rights(facts)
    yield from _of_files(facts)
    yield from _of_network(facts)
    if os.getpid() > _FEW:
        yield "it sees the machine's processes (give it a PID namespace of its own)"
    foreign = set(os.environ) - set(facts["environment"]) - _OWN_VARIABLES
    if foreign:
        yield f"it has the variables {', '.join(sorted(foreign))}"


def _of_secrets(facts: dict[str, Any]) -> Iterator[str]:
    """Look for what must not be seen, by its path and in each place that is mounted."""
    for path in facts["absent"]:
        if os.path.lexists(path):
            yield f"it sees {path}"
    places = _mounted()
    for path, *identity in facts["hidden"]:
        parts = path.strip("/").split("/")
        for place in sorted(places):
            for begin in range(len(parts) + 1):
                found = "/".join((place.rstrip("/"), *parts[begin:])) or "/"
                with contextlib.suppress(OSError):
                    status = os.stat(found)  # noqa: PTH116
                    if [status.st_dev, status.st_ino] == identity:
                        yield f"it sees {path} of the machine, at {found}"


def _of_rights(facts: dict[str, Any]) -> Iterator[str]:
    with open("/proc/self/status") as file:  # noqa: PTH123 - no pathlib here
        lines = [line.rstrip("\n").partition(":\t") for line in file]
    status = {name: value for name, _, value in lines}
    held = [name for name in _CAPABILITIES if int(status[name], 16)]
    if held:
        yield f"it has capabilities: {', '.join(held)} (as without --cap-drop=all)"
    if status.get("NoNewPrivs") != "1":
        yield "programs may gain rights"
    if status.get("Seccomp") != "2" and facts["filtered"]:
        yield "no system call is refused"
    ids = (os.getuid(), os.getgid())
    if ids != tuple(facts["ids"]):
        yield "it runs as {}:{}, not as {}:{} (as without --user={{user}}:{{group}})".format(
            *ids, *facts["ids"]
        )
    if _can_write("/proc/sys/kernel/core_pattern"):
        yield "it can change settings of the kernel"


def _of_files(facts: dict[str, Any]) -> Iterator[str]:
    for path in ("/", *facts["read"]):
        if os.path.exists(path) and not os.statvfs(path).f_flag & os.ST_RDONLY:  # noqa: PTH110
            yield f"it can write to {path} (as without --read-only, or :ro for {{read}})"
    for path in sorted({*_OF_SYSTEM, *_mounted()} - {*_PRIVATE, os.getcwd()}):  # noqa: PTH109
        if os.path.isdir(path) and _can_make(path):  # noqa: PTH112
            yield f"it can write to {path}"
    yield from _of_memory(facts)
    try:
        with open("probe", "w") as file:  # noqa: PTH123
            file.write(facts["word"])
    except OSError as error:
        yield f"it can't write to its working directory: {error.strerror}"
    for device in ("/dev/kmsg", "/dev/mem", "/dev/vda", "/dev/sda", "/dev/nvme0n1"):
        if _can_write(device):
            yield f"it can write to {device}"


def _of_memory(facts: dict[str, Any]) -> Iterator[str]:
    for path, cure in (("/tmp", "--tmpfs=/tmp"), ("/dev/shm", "--shm-size")):  # noqa: S108
        if not os.path.isdir(path) or not _can_make(path):  # noqa: PTH112
            if path == "/tmp":  # noqa: S108
                yield f"it can't write to {path} (as without {cure})"
            continue
        system = os.statvfs(path)
        if not 0 < system.f_blocks * system.f_frsize <= facts["tmp_bytes"]:
            yield f"its {path} is larger than {{tmp_mb}} MB ({cure}…)"


def _of_network(facts: dict[str, Any]) -> Iterator[str]:
    with open("/proc/self/net/route") as file:  # noqa: PTH123
        if len(file.readlines()) > 1:
            yield "it has a route to a network (as without --network=none)"
    for address in facts["addresses"]:
        with contextlib.suppress(OSError):
            socket.create_connection((address, facts["port"]), _SECONDS).close()
            yield f"it reaches {address} of the machine (as without --network=none)"
    with socket.socket(socket.AF_UNIX) as probe, contextlib.suppress(OSError):
        probe.connect("\0" + facts["abstract"])
        yield "it reaches abstract sockets of the machine (as without --network=none)"
    try:
        socket.create_connection(("127.0.0.1", facts["served"]), _SECONDS).close()
    except OSError as error:
        yield f"it does not reach the worker over its loopback: {error}"


def _mounted() -> set[str]:
    """Return where something is mounted; the kernel writes some characters as octal numbers."""
    with open("/proc/self/mountinfo") as file:  # noqa: PTH123
        places = {line.split()[4] for line in file}
    return {re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), each) for each in places}


def _can_make(directory: str) -> bool:
    path = f"{directory.rstrip('/')}/.celeriac-probe-{os.getpid()}"
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
    except OSError:
        return False
    os.unlink(path)  # noqa: PTH108
    return True


def _can_write(path: str) -> bool:
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK))
    except OSError as error:
        return error.errno == errno.ENXIO
    return True


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
