"""The first process inside a container of an agent: it runs one program and ends with the worker.

Standard library only, and run by its path: `python3 -I -S container_entry.py DIRECTORY`, where the
Unix socket of `container_client` is. It takes from there what to run, gives back the listening
sockets of the container's loopback, and starts the program with all that the program must not have
taken away: capabilities, the right to gain others, system calls, and the network, where the kernel
allows that. It ends when the program does, and when the worker's side of the socket closes; as the
first process of its namespace, all others end with it.
"""

import contextlib
import ctypes
import importlib
import json
import os
import select
import signal
import socket
import sys
from typing import Any

sys.path.append(os.path.dirname(os.path.abspath(__file__)))  # noqa: PTH100, PTH120 - no pathlib here
# by these names: here is no package, or one of another release
bootstrap = importlib.import_module("child_bootstrap")
client = importlib.import_module("container_client")

_NO_NEW_PRIVILEGES, _BOUNDING_DROP, _SECCOMP, _FILTERING = 38, 24, 22, 2  # prctl(2)
_AMBIENT, _CLEAR_ALL = 47, 4
_CAPABILITIES = 64
_INSTRUCTION_BYTES = 8
_LOOPBACK_DEVICE = "lo"
_DEVICES_HEAD = 2


class _Filter(ctypes.Structure):
    """struct sock_fprog of seccomp(2)."""

    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_void_p))


def main(directory: str) -> int:
    """Run the program that comes over the socket; return its exit code."""
    bootstrap.hide_memory()
    bootstrap.reset_signals()
    with contextlib.suppress(OSError):
        bootstrap.leave_keyring()
    os.chdir(directory)  # names of sockets are short
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(client.SOCKET)
    plan = _received(connection)
    woken = client.wake_at_signals()
    if not _enter_namespaces():
        plan["limits"]["processes"] = None  # all processes of this user would count
    listeners = bootstrap.loopback_listeners(plan["ports"])
    socket.send_fds(connection, [client.READY], [each.fileno() for each in listeners])
    for each in listeners:
        each.close()
    child = os.fork()
    if child == 0:
        os._exit(_become(plan, connection))
    bootstrap.let_go_of_pipes()
    bootstrap.hide_memory()
    code = _watched(child, connection, woken)
    with contextlib.suppress(OSError):
        connection.send(client.ENDED + bytes((code,)))
    return code


def _received(connection: socket.socket) -> dict[str, Any]:
    size = int.from_bytes(_exactly(connection, 8), "big")
    plan: dict[str, Any] = json.loads(_exactly(connection, size))
    return plan


def _exactly(connection: socket.socket, size: int) -> bytes:
    parts = b""
    while len(parts) < size:
        part = connection.recv(size - len(parts))
        if not part:
            raise SystemExit(bootstrap.SIGNALLED + signal.SIGKILL)  # the worker has ended
        parts += part
    return parts


def _enter_namespaces() -> bool:
    """Continue in a user namespace of our own, in which processes are counted.

    In a network of our own, too, if the engine gave us one with more than a loopback. Returns False
    where the kernel or the engine refuses that, and nothing changes: the worker's probe decides.
    """
    with open("/proc/self/net/dev") as file:  # noqa: PTH123 - no pathlib here
        devices = {line.partition(":")[0].strip() for line in file.readlines()[_DEVICES_HEAD:]}
    before = os.readlink("/proc/self/ns/user")  # noqa: PTH115
    try:
        bootstrap.enter_namespaces(alone=not devices <= {_LOOPBACK_DEVICE})
    except OSError:
        if os.readlink("/proc/self/ns/user") != before:  # noqa: PTH115
            raise
        return False
    return True


def _become(plan: dict[str, Any], connection: socket.socket) -> int:
    """Become the program; return an exit code only where that failed."""
    name, *_ = command = plan["command"]
    try:
        connection.close()
        signal.set_wakeup_fd(-1)
        for number in client.SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        bootstrap.reset_signals()
        os.setsid()
        os.chdir(plan["workdir"])
        bootstrap.limit_resources(**plan["limits"])
        _give_up_rights(plan["filter"])
    except (OSError, ValueError) as error:
        sys.stderr.write(f"{bootstrap.NO_GUARD}{name}: {error}\n")
        return int(bootstrap.CANNOT_GUARD)
    try:
        os.execvpe(name, command, plan["environment"])
    except OSError as error:
        sys.stderr.write(f"{bootstrap.NO_PROGRAM}{name}: {error.strerror}\n")
    return int(bootstrap.CANNOT_EXECUTE)


def _give_up_rights(instructions: str) -> None:
    """Give up capabilities, the right to gain others, and system calls, for good."""
    libc = ctypes.CDLL(None, use_errno=True)
    for each in range(_CAPABILITIES):
        libc.prctl(_BOUNDING_DROP, each, 0, 0, 0)  # only with CAP_SETPCAP; the probe looks
    libc.prctl(_AMBIENT, _CLEAR_ALL, 0, 0, 0)
    _checked(libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0))
    if instructions:
        program = bytes.fromhex(instructions)
        held = ctypes.create_string_buffer(program, len(program))
        described = _Filter(len(program) // _INSTRUCTION_BYTES, ctypes.addressof(held))
        _checked(libc.prctl(_SECCOMP, _FILTERING, ctypes.byref(described), 0, 0))


def _checked(result: int) -> None:
    if result != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"prctl: {os.strerror(error)}")


def _watched(child: int, connection: socket.socket, woken: int) -> int:
    """Reap until `child` has ended; return its exit code, as a shell gives it.

    Ends all others first when the worker's side has ended.
    """
    alone = os.getpid() == 1
    while True:
        ready, _, _ = select.select([connection.fileno(), woken], [], [])
        if woken in ready:
            asked = set(os.read(woken, 64))
            code: int | None = bootstrap.reap_all(child)
            if code is not None:
                return code
            if asked - {signal.SIGCHLD}:
                _send(child, signal.SIGTERM, to_all=False)
        if connection.fileno() in ready:
            try:
                said = connection.recv(1)
            except OSError:
                said = b""
            if said == client.STOP:
                _send(child, signal.SIGTERM, to_all=alone)
                _send(child, signal.SIGCONT, to_all=alone)  # a stopped process handles no signals
            elif not said:
                _send(child, signal.SIGKILL, to_all=alone)
                return int(bootstrap.SIGNALLED + signal.SIGKILL)


def _send(child: int, number: int, *, to_all: bool) -> None:
    """Send a signal to the program's group or, as the namespace's first process, to all others."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(-1 if to_all else -child, number)


if __name__ == "__main__":
    sys.exit(client.run(main, sys.argv[1:]))
