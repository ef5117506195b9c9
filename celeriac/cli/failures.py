"""Failures of executions, for people."""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import celeriac
from celeriac.domain.errors import ExecutionError

_PACKAGE = Path(celeriac.__file__).parent
_FRAME = re.compile(r'  File "(.+)", line \d+')
_ANY_ERROR = ExecutionError.code
"""The code of all exceptions of agents; their type is more telling."""


def failure_text(code: str | None, message: str | None, kind: str | None) -> str:
    """Return an error's message, after the exception's type if the code doesn't imply it.

    As in `KeyError: 'customer'`; `kind` is the name of the exception's class.
    """
    message = message or "The execution failed."
    if code != _ANY_ERROR or not kind or message == kind or message.startswith(f"{kind}: "):
        return message
    return f"{kind}: {message}"


def own_frames(traceback: str) -> str:
    """Return a traceback without Celeriac's own frames, unless it has no others."""
    kept = "\n".join(_kept(traceback.splitlines()))
    return kept if _FRAME.search(kept) else traceback


def _kept(lines: Iterable[str]) -> Iterator[str]:
    ours = False
    for line in lines:
        frame = _FRAME.match(line)
        if frame:
            ours = _is_ours(frame[1])
        elif not line.startswith("    "):
            ours = False
        if not ours:
            yield line


def _is_ours(file: str) -> bool:
    # the worker's packages may be elsewhere, and users may have a directory of this name
    _, found, inside = file.replace("\\", "/").rpartition("/celeriac/")
    return bool(found) and (_PACKAGE / inside).is_file()
