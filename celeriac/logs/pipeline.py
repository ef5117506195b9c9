"""From an event to the line that is written, the same for our own and for libraries' events."""

import logging
import os
import sys
import traceback
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal

from structlog.dev import ConsoleRenderer
from structlog.typing import EventDict

from celeriac.domain.errors import ConfigurationError
from celeriac.logs.context import CORRELATION_IDS
from celeriac.logs.destinations import Destinations, Entry
from celeriac.logs.events import Own
from celeriac.logs.redact import clip, encode, redact_item
from celeriac.logs.writer import Writer

LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
_STDOUT, _STDERR = 1, 2
_LONGEST_LINE = 64_000
_LONGEST_TRACE = 24_000
_LONGEST_VALUE = 1_000
_ERRORS = frozenset({"error", "critical"})


class Service(StrEnum):
    """Which process writes; the `service` of its lines."""

    API = "api"
    WORKER = "worker"
    BEAT = "beat"
    CLI = "cli"
    AGENT = "agent"
    """A child process that runs an agent; its standard output is its protocol."""


_FILES = {
    Service.API: "api.log",
    Service.WORKER: "celery-worker.log",
    Service.BEAT: "celery-beat.log",
}
_ON_STDERR = frozenset({Service.CLI, Service.AGENT})


@dataclass(frozen=True, slots=True, kw_only=True)
class LogOptions:
    """How one process logs."""

    service: Service
    level: str = "INFO"
    directory: Path | None = None
    """Where log files go; None: no files."""
    console: Literal["auto", "json", "pretty", "off"] = "auto"
    """`auto` is pretty on a terminal and JSON elsewhere. The CLI and agents use stderr."""
    execution_files: bool = True
    """Whether each execution gets its file. Off saves an open and a small file per execution;
    `read_execution_lines` then searches the services' files."""


class Pipeline:
    """Turns events into entries and hands them to the writer."""

    def __init__(self, options: LogOptions) -> None:
        """Raises ConfigurationError where the level is unknown or the directory can't be used."""
        level = options.level.upper()
        if level not in LEVELS:
            raise ConfigurationError(
                f"log level {options.level!r} is unknown; use one of {', '.join(LEVELS)}"
            )
        self.level: int = logging.getLevelNamesMapping()[level]
        self._service = str(options.service)
        console = _STDERR if options.service in _ON_STDERR else _STDOUT
        terminal = os.isatty(console)
        pretty = options.console == "pretty" or (options.console == "auto" and terminal)
        self._renderer = ConsoleRenderer(colors=terminal) if pretty else None
        self.writer = Writer(
            Destinations(
                console=None if options.console == "off" else console,
                report=self._report_lost,
                directory=_prepared(options.directory),
                service_file=_FILES.get(options.service),
                execution_files=options.execution_files,
            )
        )

    def submit(self, level: str, event_dict: EventDict) -> None:
        """Log one event; `event_dict` is used up."""
        self.writer.submit(self._entry(level, event_dict))

    def _entry(self, level: str, event_dict: EventDict) -> Entry:
        execution_id = event_dict.get("execution_id")
        trace = _trace(event_dict.pop("exc_info", None))
        timestamp = datetime.now(UTC).isoformat(timespec="microseconds")[:-6] + "Z"
        fields: EventDict = {
            "timestamp": timestamp,
            "level": level,
            "service": self._service,
            "event": redact_item("event", event_dict.pop("event", "")),
        }
        for key in CORRELATION_IDS:
            if key in event_dict:
                fields[key] = event_dict.pop(key)
        for key, value in event_dict.items():
            fields[key] = redact_item(key, value)
        if trace is not None:
            fields["exception"] = redact_item("exception", _shorten(trace))
        line = encode(fields) + b"\n"
        if len(line) > _LONGEST_LINE:
            fields = {key: _shortened(key, value) for key, value in fields.items()}
            line = encode(fields) + b"\n"
        return Entry(
            line,
            line if self._renderer is None else self._pretty(level, fields),
            None if execution_id is None else str(execution_id),
            timestamp[:10] if level in _ERRORS else None,
        )

    def _pretty(self, level: str, fields: EventDict) -> bytes:
        assert self._renderer is not None
        return (self._renderer(None, level, dict(fields)) + "\n").encode(errors="replace")

    def _report_lost(self, kind: str, lines: int) -> Entry:
        return self._entry(
            "warning", {"event": Own.LINES_LOST, "destination": kind, "count": lines}
        )


def _prepared(directory: Path | None) -> Path | None:
    if directory is None:
        return None
    directory = directory.absolute()  # a daemon changes its working directory
    try:
        (directory / "errors").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(
            f"the log directory {directory} can't be made: {error.strerror}; "
            "set CELERIAC_LOG_DIR to a directory that can be written"
        ) from error
    return directory


def _trace(exc_info: Any) -> str | None:
    """Return the traceback that `exc_info` stands for (an exception, a tuple, or true: now)."""
    if not exc_info:
        return None
    if isinstance(exc_info, BaseException):
        error: BaseException | None = exc_info
    else:
        error = exc_info[1] if isinstance(exc_info, tuple) else sys.exc_info()[1]
    return None if error is None else "".join(traceback.format_exception(error)).rstrip()


def _shorten(trace: str) -> str:
    """Cut the middle out of a very long traceback: both ends tell more."""
    if len(trace) <= _LONGEST_TRACE:
        return trace
    half = _LONGEST_TRACE // 2
    return f"{trace[:half]}\n… {len(trace) - 2 * half} characters …\n{trace[-half:]}"


def _shortened(key: str, value: Any) -> Any:
    if key == "exception" or isinstance(value, (int, float)) or value is None:
        return value
    return clip(value, _LONGEST_VALUE)
