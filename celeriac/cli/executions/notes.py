"""What an execution waits for, and how it failed, in words."""

import re
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import celeriac
from celeriac.cli.core.output import duration, moment
from celeriac.domain.errors import ExecutionError
from celeriac.domain.executions.flags import Flag
from celeriac.domain.executions.states import Held, Status
from celeriac.kit.words import counted

if TYPE_CHECKING:
    from celeriac.wire import ExecutionSummary

_PACKAGE = Path(celeriac.__file__).parent
_FRAME = re.compile(r'  File "(.+)", line \d+')
_ANY_ERROR = ExecutionError.code
"""The code of all exceptions of agents; their type is more telling."""


_HELD = {
    Held.LIMIT: "a slot of its limit",
    Held.PAUSED: "the end of a pause",
    Held.PARALLEL: "the end of a sibling",
}


def note(execution: "ExecutionSummary") -> str:
    """Return what an execution waits for and how it failed; empty for neither."""
    waits = waits_for(execution)
    parts = [f"waits for {waits}" if waits else "", error_text(execution)]
    if execution.waiting_for is not None:
        parts.pop()  # of an earlier attempt
    parts += flagged(execution)
    return "; ".join(part for part in parts if part)


def flagged(execution: "ExecutionSummary") -> list[str]:
    """Return the flags of an execution in words."""
    active = execution.active_at
    silent = duration((datetime.now(UTC) - active).total_seconds()) if active else ""
    words = {
        Flag.NO_OP: "did nothing",
        Flag.TOOLS_DENIED: f"{counted(execution.denied_tool_count, 'tool call')} denied",
        Flag.TRUNCATED: "cut off by the token limit",
        Flag.SILENT: f"silent for {silent}",
    }
    return [words[flag] for flag in execution.flags]


def waits_for(execution: "ExecutionSummary") -> str:
    """Return what an execution waits for: a person, a budget, a provider, a worker, its time."""
    since = execution.waiting_since
    waited = max((datetime.now(UTC) - since).total_seconds(), 0.0) if since else None
    spent = f", for {duration(waited)}" if waited is not None else ""
    if execution.waiting_for is not None:
        until = f", until {moment(execution.waiting_until)}" if execution.waiting_until else ""
        return f"{execution.waiting_for.value.replace('_', ' ')}{until}{spent}"
    if execution.held in _HELD:
        return f"{_HELD[execution.held]}{spent}"
    if execution.status in {Status.PENDING, Status.QUEUED}:
        return f"a worker{spent}" if spent else f"its time, {moment(execution.available_at)}"
    return ""


def error_text(execution: "ExecutionSummary") -> str:
    """Return the code and the message of an execution's last error; empty without one."""
    code = execution.error_code
    if not code:
        return ""
    return f"{code}: {failure_text(code, execution.error_message, execution.error_type)}"


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
