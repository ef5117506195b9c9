"""Logging: one pipeline for API, worker, beat, agents and libraries.

Call `configure` once per process, `get_logger` anywhere, and `bind` around a piece of work. Lines
are JSON with a fixed order of keys; docs/logs.md describes files, keys and events.
"""

from celeriac.logs.pipeline import (
    CORRELATION_IDS,
    LEVELS,
    CeleryEvent,
    LogOptions,
    Own,
    Service,
    Step,
    bind,
    bound,
    configure,
    correlation,
    flush,
    get_logger,
    shutdown,
)
from celeriac.logs.reading import SERVICE_FILES, LogLine, parse_line, read_execution_lines
from celeriac.logs.redact import MASK, clip, redact, redact_text
from celeriac.logs.writer import error_file, execution_file

__all__ = [
    "CORRELATION_IDS",
    "LEVELS",
    "MASK",
    "SERVICE_FILES",
    "CeleryEvent",
    "LogLine",
    "LogOptions",
    "Own",
    "Service",
    "Step",
    "bind",
    "bound",
    "clip",
    "configure",
    "correlation",
    "error_file",
    "execution_file",
    "flush",
    "get_logger",
    "parse_line",
    "read_execution_lines",
    "redact",
    "redact_text",
    "shutdown",
]
