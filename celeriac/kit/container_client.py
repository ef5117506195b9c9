"""Runs the client of a container engine for one child process, outside of the container.

Standard library only, and run by its path. It starts the administrator's command, gives the first
process inside (`container_entry`) what to run over a Unix socket in `DIRECTORY`, and passes the
listening sockets that come back on to the worker. When this process ends, that connection ends, and
with it everything inside, whatever the engine does.
"""

import contextlib
import fcntl
import importlib
import json
import os
import select
import shutil
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

sys.path.append(os.path.dirname(os.path.abspath(__file__)))  # noqa: PTH100, PTH120 - as there
bootstrap = importlib.import_module("child_bootstrap")  # inside there is no package

SOCKET = "channel"
"""The name of the Unix socket in the directory of a container."""
ENVIRONMENT = "environment"
"""The name of a file there with the variables of the engine's command, as JSON.

They may hold passwords of registries, and everybody can read command lines. It is gone before the
container exists, in which the directory is seen.
"""
_UNSEEN = frozenset({bootstrap.LISTENERS, "CELERIAC_CHILD"})
"""Variables of this process that are not passed on: the worker asks this process to end, alone."""
STOP, ENDED, READY = b"T", b"X", b"."
"""What is sent over the socket: end the program; it has ended, and its exit code; it can start."""
SIGNALS = (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
"""A child has ended, or the program is to end."""

_EXIT_SECONDS = 10.0
"""How long the engine may take to remove a container whose first process has ended."""


def main(described: str, *command: str) -> int:
    """Run `command` inside and return its exit code, 128 and the number after a signal.

    `described` is JSON (`ContainerSandbox.command`): `start`, the engine's command; `directory`,
    that of the container; `seconds` until the first process must have connected; and `plan`, what
    that process gets besides the command and its environment.
    """
    bootstrap.hide_memory()  # our environment may hold an agent's secrets
    given: dict[str, Any] = json.loads(described)
    woken = wake_at_signals()
    place = os.open(given["directory"], os.O_RDONLY | os.O_DIRECTORY)
    fcntl.flock(place, fcntl.LOCK_EX)  # free again when we have ended
    variables = _taken(os.path.join(given["directory"], ENVIRONMENT))  # noqa: PTH118 - as above
    path = f"/proc/self/fd/{place}/{SOCKET}"  # names of sockets are short
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        os.chmod(path, 0o777)  # noqa: PTH101, S103 - the directory is closed to others
        listener.listen(1)
        listener.settimeout(0)
        engine = os.posix_spawnp(
            given["start"][0],
            given["start"],
            variables,
            setsigdef=(signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGPIPE),
        )
        connection, ended = _connected(listener, engine, woken, given["seconds"])
    if connection is None:
        reason = (
            f"its first process did not connect within {given['seconds']:g} s, or was asked to end"
            if ended is None
            else f"the command ended with {ended} before its first process connected"
        )
        sys.stderr.write(
            f"{bootstrap.NO_GUARD}a container: {reason}. The command is "
            "CELERIAC_CONFINEMENT_CONTAINER_COMMAND\n"
        )
        _finish(engine, ended, woken, 0.0)
        return int(bootstrap.CANNOT_GUARD)
    os.unlink(path)  # noqa: PTH108 - a name relative to a descriptor
    bootstrap.let_go_of_pipes()
    _hand_over(connection, {**given["plan"], "command": command, "environment": _passed_on()})
    code, ended = _relay(connection, engine, woken)
    if _finish(engine, ended, woken, _EXIT_SECONDS) and code is not None:
        _remove(given["directory"])  # nothing is left: no stop is needed
    return int(bootstrap.SIGNALLED + signal.SIGKILL) if code is None else code


def _taken(path: str) -> dict[str, str]:
    """Return the variables in a file, and remove it."""
    with open(path) as file:  # noqa: PTH123 - no pathlib here
        variables: dict[str, str] = json.load(file)
    os.unlink(path)  # noqa: PTH108
    return variables


def wake_at_signals() -> int:
    """Return a descriptor from which the numbers of `SIGNALS` can be read as they arrive."""
    woken, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(writer)
    for number in SIGNALS:
        signal.signal(number, lambda *_: None)
    return woken


def _ready(channel: socket.socket, woken: int, seconds: float | None = None) -> set[int]:
    """Wait for one of both; return the descriptors that can be read."""
    return set(select.select([channel.fileno(), woken], [], [], seconds)[0])


def _connected(
    listener: socket.socket, engine: int, woken: int, seconds: float
) -> tuple[socket.socket | None, int | None]:
    """Return the connection of the first process, or the exit code of the engine's command."""
    deadline = time.monotonic() + seconds
    while (left := deadline - time.monotonic()) > 0:
        ready = _ready(listener, woken, left)
        if listener.fileno() in ready:
            connection, _ = listener.accept()
            return connection, None
        if woken in ready:
            asked = os.read(woken, 64)
            ended = _reaped(engine)
            if ended is not None:
                return None, ended
            if set(asked) - {signal.SIGCHLD}:
                return None, None
    return None, None


def _passed_on() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name not in _UNSEEN}


def _hand_over(connection: socket.socket, plan: dict[str, Any]) -> None:
    """Send the plan; pass the listening sockets that come back on to the worker."""
    number, _, ports = os.environ.get(bootstrap.LISTENERS, "").partition(":")
    plan["ports"] = [int(each) for each in ports.split(",")] if ports else []
    text = json.dumps(plan).encode()
    listeners: list[int] = []
    with contextlib.suppress(OSError):  # it has ended, as `_relay` sees
        connection.sendall(len(text).to_bytes(8, "big") + text)
        _, listeners, _, _ = socket.recv_fds(connection, 1, max(1, len(plan["ports"])))
    if number:
        with socket.socket(fileno=int(number)) as worker, contextlib.suppress(OSError):
            if listeners:
                socket.send_fds(worker, [READY], listeners)
    for each in listeners:
        os.close(each)


def _relay(connection: socket.socket, engine: int, woken: int) -> tuple[int | None, int | None]:
    """Pass requests to end on until the program has ended.

    Return its exit code, if it was reported, and that of the engine's command, if it has ended.
    """
    connection.settimeout(0)
    ended: int | None = None
    while True:
        ready = _ready(connection, woken)
        if woken in ready:
            asked = set(os.read(woken, 64))
            if asked - {signal.SIGCHLD}:
                with contextlib.suppress(OSError):
                    connection.send(STOP)
            if ended is None:
                ended = _reaped(engine)
        if connection.fileno() in ready:
            try:
                said = connection.recv(2)
            except OSError:
                said = b""
            return (said[1] if said[:1] == ENDED and len(said) > 1 else None), ended


def _finish(engine: int, ended: int | None, woken: int, seconds: float) -> bool:
    """Wait for the engine's command, then kill it; return whether it has ended by itself."""
    deadline = time.monotonic() + seconds
    while ended is None and (left := deadline - time.monotonic()) > 0:
        ended = _reaped(engine)
        if ended is None and select.select([woken], [], [], left)[0]:
            os.read(woken, 64)
    if ended is None:
        os.kill(engine, signal.SIGKILL)
        os.waitpid(engine, 0)
        return False
    return True


def _reaped(engine: int) -> int | None:
    """Return the exit code of the engine's command once it has ended."""
    pid, status = os.waitpid(engine, os.WNOHANG)
    return int(bootstrap.exit_code(status)) if pid else None


def _remove(directory: str) -> None:
    with contextlib.suppress(OSError):
        shutil.rmtree(directory)


def run(program: Callable[..., int], arguments: Sequence[str]) -> int:
    """Run a `main`, with an error of the system as a line on stderr."""
    try:
        return program(*arguments)
    except OSError as error:
        sys.stderr.write(f"{bootstrap.NO_GUARD}a container: {error}\n")
        return int(bootstrap.CANNOT_GUARD)


if __name__ == "__main__":
    sys.exit(run(main, sys.argv[1:]))
