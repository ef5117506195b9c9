"""The table of attempts, and what many of them do."""

import ctypes
import importlib
import os
import socket
import subprocess
from collections.abc import Callable, Collection, Mapping
from functools import partial
from pathlib import Path
from typing import Any

LIBC = ctypes.CDLL(None, use_errno=True)
TARGETS: dict[str, Any] = {}
"""What to attack: set before the modules of the attempts are loaded."""
ATTEMPTS: dict[str, Callable[[], object]] = {}
"""The attempts by `kind: name`. One returns what it got, or raises an error of the system."""

KINDS = (
    "reading", "writing", "processes", "rights", "calls", "sockets", "proxies", "limits",
    "left_behind",
)  # fmt: skip


OF_ATTEMPT = "run-"
"""Begins the name of the directory from which Claude Code starts."""


class NothingGotError(OSError):
    """An attempt ended without an error, and without anything that it should not have."""


def add(name: str, function: Callable[..., object], *arguments: object) -> None:
    """Add an attempt: a call of `function`."""
    assert name not in ATTEMPTS, name
    ATTEMPTS[name] = partial(function, *arguments)


def attempt(name: str) -> Callable[[Callable[[], object]], Callable[[], object]]:
    """Add the decorated function as an attempt."""

    def register(function: Callable[[], object]) -> Callable[[], object]:
        add(name, function)
        return function

    return register


def results(targets: Mapping[str, Any], only: Collection[str] = ()) -> dict[str, str]:
    """Make the attempts, or `only` these, and return what each got or why it got nothing."""
    TARGETS.update(targets)
    for kind in KINDS:
        importlib.import_module(f"{__package__}.{kind}")
    return {name: _tried(each) for name, each in ATTEMPTS.items() if not only or name in only}


def _tried(function: Callable[[], object]) -> str:
    try:
        return f"GOT {function()!r}"
    except (OSError, ValueError, MemoryError, subprocess.SubprocessError) as error:
        return f"refused: {type(error).__name__}: {error}"


def found(what: object) -> object:
    """Return what was found. Raises NothingGotError if that is nothing."""
    if not what:
        raise NothingGotError("there is nothing")
    return what


def done(function: Callable[..., object], *arguments: object) -> str:
    """Call a function of the system, which raises what it refuses."""
    function(*arguments)
    return f"{function.__name__} was done"


def call(name: str, *arguments: object) -> str:
    """Call the C library; raises OSError with its errno."""
    if getattr(LIBC, name)(*arguments) == -1:
        error = ctypes.get_errno()
        raise OSError(error, f"{name}: {os.strerror(error)}")
    return f"{name} succeeded"


def read(path: str) -> str:
    """Return the beginning of a file."""
    with open(path, "rb") as file:
        return file.read(200).decode(errors="replace") or "(empty)"


def written(path: str) -> str:
    """Open a file for writing; should that succeed, nothing is damaged."""
    with open(path, "ab"):
        return f"could write {path}"


def listed(path: str) -> object:
    """Return the entries of a directory, without those that lead to what may be seen."""
    shown = {part for each in TARGETS["shown"] for part in (each, *map(str, Path(each).parents))}
    names = [each for each in os.listdir(path) if str(Path(path, each)) not in shown]
    return found([each for each in names if not each.startswith(OF_ATTEMPT)])


def connected(family: int, address: Any, kind: int = socket.SOCK_STREAM) -> str:
    """Connect, and send a byte."""
    with socket.socket(family, kind) as client:
        client.settimeout(2)
        client.connect(address)
        client.send(b"x")
    return f"reached {address!r}"
