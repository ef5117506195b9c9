"""Reads log files: the lines of one execution, ordered by time."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson

from celeriac.logs.writer import execution_file

SERVICE_FILES = ("api.log", "celery-worker.log", "celery-beat.log")
_LINE_START = b'{"timestamp":"'
_CORE = frozenset({"timestamp", "level", "service", "event"})


@dataclass(frozen=True, slots=True)
class LogLine:
    """One line of a log file."""

    at: datetime
    """Aware, in UTC."""
    level: str
    service: str
    event: str
    fields: Mapping[str, Any]
    """Everything else: ids, values, `exception`."""


def parse_line(raw: bytes) -> LogLine | None:
    """Return the line in `raw`, or None.

    After an incomplete line (a full disk, a killed process) a whole one may follow in the same
    `raw`; that one is returned.
    """
    values = _decode(raw)
    if values is None:
        begin = raw.rfind(_LINE_START)
        values = _decode(raw[begin:]) if begin > 0 else None
    if values is None:
        return None
    try:
        return LogLine(
            at=datetime.fromisoformat(values["timestamp"]).astimezone(UTC),
            level=str(values["level"]),
            service=str(values["service"]),
            event=str(values["event"]),
            fields={key: value for key, value in values.items() if key not in _CORE},
        )
    except (KeyError, TypeError, ValueError):
        return None


def read_execution_lines(directory: Path, execution_id: str) -> Iterator[LogLine]:
    """Yield the lines of API, worker and agents about one execution, ordered by time.

    Reads the execution's file, or the files of the services where it has none (`execution_files` is
    off). Malformed lines are left out.
    """
    own = execution_file(directory, execution_id)
    paths = [own] if own.exists() else [directory / name for name in SERVICE_FILES]
    lines = [line for path in paths for line in _lines_of(path, execution_id)]
    yield from sorted(lines, key=lambda line: line.at)


def _lines_of(path: Path, execution_id: str) -> Iterator[LogLine]:
    needle = execution_id.encode()
    try:
        with path.open("rb") as stream:
            for raw in stream:
                line = parse_line(raw) if needle in raw else None
                if line is not None and line.fields.get("execution_id") == execution_id:
                    yield line
    except FileNotFoundError:
        return


def _decode(raw: bytes) -> Mapping[str, Any] | None:
    try:
        values = orjson.loads(raw)
    except orjson.JSONDecodeError:
        return None
    return values if isinstance(values, dict) else None
