"""Setting up logging for a process: structlog, standard logging and Python's warnings."""

import atexit
import logging
from collections.abc import Mapping

import structlog
from structlog.contextvars import get_contextvars, merge_contextvars
from structlog.typing import EventDict, FilteringBoundLogger, WrappedLogger

from celeriac.logs.pipeline import LogOptions, Pipeline

_CHATTY = (
    # Our own lines say the same with ids: Celery's "received", access logs, one line per HTTP
    # request of the model clients.
    "celery.worker.strategy",
    "httpcore",
    "httpcore2",
    "httpx",
    "httpx2",
    "openai",
    "uvicorn.access",
)
_TWICE = "celery.app.trace"
"""Its lines on a task's end repeat ours; only its critical lines say something else."""


class _Setup:
    """What `configure` changes, and the state before it."""

    def __init__(self, pipeline: Pipeline) -> None:
        self.pipeline = pipeline
        root = logging.getLogger()
        self._handlers = root.handlers[:]
        self._levels = {name: logging.getLogger(name).level for name in ("root", *_CHATTY, _TWICE)}

    def apply(self) -> None:
        level = self.pipeline.level
        structlog.configure(
            processors=[merge_contextvars, _submit],
            wrapper_class=structlog.make_filtering_bound_logger(level),
            logger_factory=_Name,
            cache_logger_on_first_use=True,
        )
        chatty = dict.fromkeys(_CHATTY, max(level, logging.WARNING))
        _set_levels({"root": max(level, logging.INFO), **chatty, _TWICE: logging.CRITICAL})
        logging.getLogger().handlers[:] = [_Bridge(self.pipeline)]
        logging.captureWarnings(capture=True)
        atexit.register(self.pipeline.writer.close)

    def undo(self) -> None:
        atexit.unregister(self.pipeline.writer.close)
        logging.captureWarnings(capture=False)
        logging.getLogger().handlers[:] = self._handlers
        _set_levels(self._levels)
        structlog.reset_defaults()
        self.pipeline.writer.close()


class _Current:
    """The setup in force; loggers that were made and cached before it find it here."""

    setup: _Setup | None = None


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
    _Current.setup = _Setup(pipeline)
    _Current.setup.apply()


def flush() -> bool:
    """Wait up to 5 s until all lines are written; return whether they are.

    For processes that end without running exit handlers, such as Celery's prefork children: call it
    in `worker_process_shutdown`.
    """
    return _Current.setup is None or _Current.setup.pipeline.writer.flush()


def shutdown() -> None:
    """Write what is left and undo `configure`. Not needed at a normal exit."""
    setup, _Current.setup = _Current.setup, None
    if setup is not None:
        setup.undo()


def _submit(logger: WrappedLogger, method: str, event_dict: EventDict) -> str:
    if _Current.setup is not None:
        if logger.name:
            event_dict["logger"] = logger.name
        _Current.setup.pipeline.submit(method, event_dict)
    return ""


def _set_levels(levels: Mapping[str, int]) -> None:
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)
