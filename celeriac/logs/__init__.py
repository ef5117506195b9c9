"""Logging: one pipeline for API, worker, beat, agents and libraries.

Call `configure` once per process, `get_logger` anywhere, and `bind` around a piece of work. Lines
are JSON with a fixed order of keys; docs/logs.md describes files, keys and events.
"""

import atexit
import faulthandler
import logging
import os
import sys
import traceback
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Any, Literal
from uuid import UUID

import structlog
from structlog.contextvars import bound_contextvars, get_contextvars, merge_contextvars
from structlog.dev import ConsoleRenderer
from structlog.typing import EventDict, FilteringBoundLogger, WrappedLogger

from celeriac.domain.errors import ConfigurationError
from celeriac.kit.json_types import loads
from celeriac.kit.text import clip_middle
from celeriac.logs import masks
from celeriac.logs.redact import clip, encode, redact_item
from celeriac.logs.writer import Destinations, Entry, Writer

CORRELATION_IDS = (
    "request_id",
    "user_id",
    "task_id",
    "execution_id",
    "session_id",
    "celery_task_id",
    "trace_id",
)
"""In their order on a line."""
_LONGEST_ID = 128


def bind(
    *,
    request_id: str | UUID | None = None,
    user_id: str | UUID | None = None,
    task_id: str | UUID | None = None,
    execution_id: str | UUID | None = None,
    session_id: str | UUID | None = None,
    celery_task_id: str | UUID | None = None,
    trace_id: str | None = None,
) -> AbstractContextManager[None]:
    """Put the ids on every log line inside the `with`; None keeps an id that is bound outside."""
    given = locals()
    return bound_contextvars(**{key: str(value) for key, value in given.items() if value})


def bound(ids: Mapping[str, object]) -> AbstractContextManager[None]:
    """Like `bind`, for ids from a message header or a parent process, which are not trusted.

    Keys that are no correlation id, values that are no text, and values of more than 128 characters
    are left out.
    """
    known = {
        key: value
        for key in CORRELATION_IDS
        if isinstance(value := ids.get(key), str) and 0 < len(value) <= _LONGEST_ID
    }
    return bound_contextvars(**known)


def correlation() -> dict[str, str]:
    """Return the ids bound here, for message headers and child processes."""
    values = get_contextvars()
    return {key: values[key] for key in CORRELATION_IDS if key in values}


class Step(StrEnum):
    """Steps of an execution (REQUIREMENTS A15): the `event` of their log lines."""

    EXECUTION_REQUESTED = "execution.requested"
    EXECUTION_CREATED = "execution.created"
    EXECUTION_QUEUED = "execution.queued"
    EXECUTION_PICKED_UP = "execution.picked_up"
    SESSION_CREATED = "session.created"
    AGENT_SET_UP = "agent.set_up"
    MESSAGE_SENT = "message.sent"
    TOOL_EXECUTED = "tool.executed"
    REPORT_GENERATED = "report.generated"
    EXECUTION_COMPLETED = "execution.completed"
    EXECUTION_FAILED = "execution.failed"
    EXECUTION_CANCEL_REQUESTED = "execution.cancel_requested"
    EXECUTION_CANCELLED = "execution.cancelled"
    EXECUTION_RETRY_SCHEDULED = "execution.retry_scheduled"
    EXECUTION_HANDED_BACK = "execution.handed_back"
    EXECUTION_PARKED = "execution.parked"
    EXECUTION_RESUMED = "execution.resumed"
    APPROVAL_ASKED = "approval.asked"
    APPROVAL_ANSWERED = "approval.answered"
    EXECUTION_WORKER_LOST = "execution.worker_lost"
    EXECUTION_LEASE_LOST = "execution.lease_lost"


class CeleryEvent(StrEnum):
    """Signals of Celery (REQUIREMENTS A10, B11): the `event` of their log lines."""

    WORKER_READY = "celery.worker_ready"
    TASK_PRERUN = "celery.task_prerun"
    TASK_POSTRUN = "celery.task_postrun"
    TASK_SUCCESS = "celery.task_success"
    TASK_FAILURE = "celery.task_failure"
    TASK_RETRY = "celery.task_retry"
    TASK_REVOKED = "celery.task_revoked"


LINES_LOST = "logs.lines_lost"
"""The event of the log itself."""

LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
_STDOUT, _STDERR = 1, 2
_LONGEST_LINE = 64_000
_LONGEST_TRACE = 24_000
_LONGEST_VALUE = 1_000
_ERRORS = frozenset({"error", "critical"})


class Service(StrEnum):
    """The kind of process that writes: the `service` of its lines."""

    API = "api"
    WORKER = "worker"
    BEAT = "beat"
    CLI = "cli"
    AGENT = "agent"
    """A child process that runs an agent; its standard output carries its protocol."""


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
    """Directory of the log files; None writes no files."""
    console: Literal["auto", "json", "pretty", "off"] = "auto"
    """`auto` is pretty on a terminal and JSON elsewhere. The CLI and agents use stderr."""
    execution_files: bool = True
    """Whether each execution has a file. False saves an open and a small file per execution;
    `read_execution_lines` then searches the files of the services."""


class Pipeline:
    """Turns events into entries and gives them to the writer."""

    def __init__(self, options: LogOptions) -> None:
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
        """Log one event. `event_dict` is changed."""
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
            fields["exception"] = redact_item("exception", clip_middle(trace, _LONGEST_TRACE))
        line = encode(fields) + b"\n"
        if masks.any_known():
            # as JSON, where objects have become their repr
            known = None if execution_id is None else str(execution_id)
            fields = masks.masked(loads(line), known)
            line = encode(fields) + b"\n"
        if len(line) > _LONGEST_LINE:
            fields = {key: _shortened(key, value) for key, value in fields.items()}
            line = encode(fields) + b"\n"
        console = line
        if self._renderer is not None:
            console = (self._renderer(None, level, dict(fields)) + "\n").encode(errors="replace")
        return Entry(
            line,
            console,
            None if execution_id is None else str(execution_id),
            timestamp[:10] if level in _ERRORS else None,
        )

    def _report_lost(self, kind: str, lines: int) -> Entry:
        return self._entry("warning", {"event": LINES_LOST, "destination": kind, "count": lines})


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
    """Return the traceback of `exc_info`: an exception, a tuple, or true for the current one."""
    if not exc_info:
        return None
    if isinstance(exc_info, BaseException):
        error: BaseException | None = exc_info
    else:
        error = exc_info[1] if isinstance(exc_info, tuple) else sys.exc_info()[1]
    return None if error is None else "".join(traceback.format_exception(error)).rstrip()


def _shortened(key: str, value: Any) -> Any:
    if key == "exception" or isinstance(value, (int, float)) or value is None:
        return value
    return clip(value, _LONGEST_VALUE)


_CHATTY = (
    # Our own lines say the same with ids: Celery's "received", access logs, one line per HTTP
    # request of the model clients. Alembic describes the server for each look at the schema.
    "alembic.runtime.migration",
    "celery.worker.strategy",
    "httpcore",
    "httpcore2",
    "httpx",
    "httpx2",
    "openai",
    "uvicorn.access",
)
_REPEATING = "celery.app.trace"
"""Its lines on a task's end repeat ours; only its critical lines say something else."""


class _Current:
    """The configuration in force; loggers that were made and cached before it find it here."""

    pipeline: Pipeline | None = None
    undo = ExitStack()


class _Bridge(logging.Handler):
    """Sends the records of standard logging to the pipeline."""

    def __init__(self, pipeline: Pipeline) -> None:
        super().__init__()
        self._pipeline = pipeline

    def emit(self, record: logging.LogRecord) -> None:
        try:
            event = {
                **get_contextvars(),
                "logger": record.name,
                "event": record.getMessage(),
                "exc_info": record.exc_info,
            }
            self._pipeline.submit(record.levelname.lower(), event)
        except Exception:  # noqa: BLE001 - logging's own rule: report on stderr, never raise
            self.handleError(record)


class _Name:
    """The last logger of structlog's chain: only holds the name; `_submit` has written the line."""

    def __init__(self, name: str = "") -> None:
        self.name = name

    def ignore(self, _: str) -> None:
        """Ignore what the last processor returned."""

    debug = info = warning = error = critical = ignore


def get_logger(name: str) -> FilteringBoundLogger:
    """Return a logger whose lines carry `logger=name`; it may be made before `configure`."""
    logger: FilteringBoundLogger = structlog.get_logger(name)
    return logger


def configure(options: LogOptions) -> None:
    """Set up logging for this process; a second call replaces the first.

    Starts nothing before the first line. Raises ConfigurationError for an unknown level or an
    unusable directory.
    """
    pipeline = Pipeline(options)
    shutdown()
    _Current.pipeline, level, undo = pipeline, pipeline.level, _Current.undo
    undo.callback(pipeline.writer.close)
    undo.callback(_restored(structlog.get_config(), configured=structlog.is_configured()))
    structlog.configure(
        processors=[merge_contextvars, _submit],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=_Name,
        cache_logger_on_first_use=True,
    )
    chatty = dict.fromkeys(_CHATTY, max(level, logging.WARNING))
    for name, wanted in {
        "root": max(level, logging.INFO),
        **chatty,
        _REPEATING: logging.CRITICAL,
    }.items():
        logger = logging.getLogger(name)
        undo.callback(logger.setLevel, logger.level)
        logger.setLevel(wanted)
    root = logging.getLogger()
    undo.callback(setattr, root, "handlers", root.handlers)
    root.handlers = [_Bridge(pipeline)]
    logging.captureWarnings(capture=True)
    undo.callback(logging.captureWarnings, capture=False)
    atexit.register(pipeline.writer.close)
    undo.callback(atexit.unregister, pipeline.writer.close)
    if not faulthandler.is_enabled():
        # a crash of the interpreter leaves no other line
        with suppress(RuntimeError, OSError):
            faulthandler.enable()


def use_standard_logging() -> None:
    """Send lines to the loggers of standard logging, unless structlog is configured.

    For processes that are not ours, such as a user's tests. The default of structlog prints the
    local variables of each frame with an exception: these may hold secrets.
    """
    if structlog.is_configured():
        return
    structlog.configure(
        processors=[merge_contextvars, _as_record],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=logging.getLogger,
        cache_logger_on_first_use=False,
    )


def flush() -> bool:
    """Wait up to 5 s until all lines are written; return whether they are.

    For processes that end without running exit handlers, such as Celery's prefork children: call it
    in `worker_process_shutdown`.
    """
    return _Current.pipeline is None or _Current.pipeline.writer.flush()


def shutdown() -> None:
    """Write what is left and undo `configure`. Not needed at a normal exit."""
    _Current.pipeline = None
    _Current.undo.close()


def _submit(logger: WrappedLogger, method: str, event_dict: EventDict) -> str:
    if _Current.pipeline is not None:
        if logger.name:
            event_dict["logger"] = logger.name
        _Current.pipeline.submit(method, event_dict)
    return ""


def _as_record(
    _logger: WrappedLogger, _method: str, event_dict: EventDict
) -> tuple[tuple[str, str], dict[str, Any]]:
    """Return the arguments of a method of `logging.Logger`."""
    exc_info = event_dict.pop("exc_info", None)
    words = [str(redact_item("event", event_dict.pop("event", "")))]
    words += [f"{key}={redact_item(key, value)}" for key, value in event_dict.items()]
    return ("%s", " ".join(words)), {"exc_info": exc_info}


def _restored(config: dict[str, Any], *, configured: bool) -> Callable[[], None]:
    return partial(structlog.configure, **config) if configured else structlog.reset_defaults
