"""Reads values of secrets on the worker's machine, as its administrator has configured."""

import errno
import os
import select
import signal
import stat
import subprocess
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from celeriac.domain.errors import ConfigurationError, SecretUnavailableError
from celeriac.domain.secrets.model import LONGEST_VALUE

SETTING = "CELERIAC_SECRET_SOURCES"

_MOST_BYTES = 4 * LONGEST_VALUE
_NOT_BLOCKING = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class VariableSource:
    """A variable of the worker's environment."""

    variable: str


@dataclass(frozen=True, slots=True)
class FileSource:
    """A regular file of UTF-8 text, perhaps behind a link."""

    path: Path


@dataclass(frozen=True, slots=True)
class CommandSource:
    """A program that writes the value to its standard output, within so many seconds."""

    command: tuple[str, ...]
    seconds: float


Source = VariableSource | FileSource | CommandSource


class SecretSources:
    """The sources of a worker by their names. Safe to share between threads.

    One line end at the end of a value is left out. No error repeats what was read or written.
    """

    def __init__(self, sources: Mapping[str, Source], environment: Mapping[str, str]) -> None:
        self._sources = dict(sources)
        self._environment = environment

    def read(self, name: str) -> str:
        """Return the value of a source.

        Raises ConfigurationError if this worker doesn't have it, and SecretUnavailableError if it
        can't be read.
        """
        source = self._sources.get(name)
        match source:
            case None:
                # others are not named: the error is seen in the workspace, they may be of another
                raise ConfigurationError(
                    f"there is no source {name!r}. Add it to {SETTING} and restart the worker"
                )
            case VariableSource(variable):
                if variable not in self._environment:
                    raise ConfigurationError(
                        f"the variable {variable} of the source {name!r} is not set"
                    )
                return self._environment[variable]
            case FileSource(path):
                return _text(name, _file(name, path))
            case CommandSource():
                return _text(name, _output(name, source))


def _file(name: str, path: Path) -> bytes:
    """Read a regular file, or a byte more than allowed.

    Others are not even opened: a pipe waits for its writer, a device may do something.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise SecretUnavailableError(
                f"The file of the secret source {name!r} is no regular file.", source=name
            )
        # it may have been replaced since
        with os.fdopen(os.open(path, _NOT_BLOCKING), "rb", 0) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise FileNotFoundError(errno.ENOENT, "it was replaced")
            raw = bytearray()
            while piece := file.read(_MOST_BYTES + 1 - len(raw)):
                raw += piece
            return bytes(raw)
    except OSError as error:
        raise SecretUnavailableError(
            f"The file of the secret source {name!r} can't be read: {error.strerror}.", source=name
        ) from error


def _text(name: str, raw: bytes) -> str:
    if len(raw) > _MOST_BYTES:
        raise SecretUnavailableError(
            f"The secret source {name!r} gave more than {_MOST_BYTES:,} bytes.", source=name
        )
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        raise SecretUnavailableError(
            f"The secret source {name!r} gave no UTF-8 text.", source=name
        ) from None  # it holds what was read
    return text.removesuffix("\n").removesuffix("\r")


def _output(name: str, source: CommandSource) -> bytes:
    """Run the command in a process group of its own, which ends with it."""
    try:
        process = subprocess.Popen(
            source.command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
    except OSError as error:
        raise SecretUnavailableError(
            f"The command of the secret source {name!r} can't be run: {error.strerror}.",
            source=name,
        ) from error
    deadline = time.monotonic() + source.seconds
    try:
        raw = _read(process, deadline)
        code = process.wait(max(0.0, deadline - time.monotonic()))
    except (subprocess.TimeoutExpired, TimeoutError):
        raise SecretUnavailableError(
            f"The command of the secret source {name!r} took longer than {source.seconds:g} s.",
            source=name,
        ) from None
    finally:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        _close(process)
    if code != 0 and len(raw) <= _MOST_BYTES:
        raise SecretUnavailableError(
            f"The command of the secret source {name!r} ended with the code {code}. Run it as the "
            "worker's user to see why.",
            source=name,
        )
    return raw


def _read(process: subprocess.Popen[bytes], deadline: float) -> bytes:
    """Return the output up to its end, or a byte more than allowed. Raises TimeoutError."""
    assert process.stdout is not None
    descriptor, raw = process.stdout.fileno(), bytearray()
    poll = select.poll()  # `select` takes no descriptor above 1023, which busy workers have
    poll.register(descriptor, select.POLLIN)
    while len(raw) <= _MOST_BYTES:
        left = deadline - time.monotonic()
        if left <= 0 or not poll.poll(left * 1000):
            raise TimeoutError
        piece = os.read(descriptor, _MOST_BYTES + 1 - len(raw))
        if not piece:
            return bytes(raw)
        raw += piece
    os.killpg(process.pid, signal.SIGKILL)
    return bytes(raw)


def _close(process: subprocess.Popen[bytes]) -> None:
    assert process.stdout is not None
    process.stdout.close()
    process.wait()
