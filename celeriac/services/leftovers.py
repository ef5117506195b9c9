"""Leftovers: files of executions that nobody has touched for a long time."""

import os
import re
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import UUID

from celeriac.kit.ids import parse_uuid
from celeriac.logs import error_file

_DAY = 86_400
_LOG_FILE = re.compile(r"task-execution-(.+)\.log")
_ERROR_FILE = re.compile(r"task-errors-\d{4}-\d{2}-\d{2}\.log")


def old_directories(place: Path, *, days: float) -> Iterator[tuple[UUID, Path]]:
    """Yield the executions' directories in `place` that were last changed `days` ago."""
    for path in _old(place, days=days, kind=stat.S_ISDIR):
        execution_id = parse_uuid(path.name)
        if execution_id is not None:
            yield execution_id, path


def old_logs(place: Path, *, days: float) -> Iterator[tuple[UUID, Path]]:
    """Yield the executions' log files in `place` that were last written `days` ago."""
    for path in _old(place, days=days, kind=stat.S_ISREG):
        named = _LOG_FILE.fullmatch(path.name)
        execution_id = None if named is None else parse_uuid(named[1])
        if execution_id is not None:
            yield execution_id, path


def old_error_files(place: Path, *, days: float) -> Iterator[Path]:
    """Yield the files of a day's errors that were last written `days` ago."""
    for path in _old(error_file(place, "").parent, days=days, kind=stat.S_ISREG):
        if _ERROR_FILE.fullmatch(path.name):
            yield path


def _old(place: Path, *, days: float, kind: Callable[[int], bool]) -> Iterator[Path]:
    oldest = time.time() - days * _DAY
    try:
        entries = os.scandir(place)
    except FileNotFoundError:
        return
    with entries:
        for entry in entries:
            try:
                facts = entry.stat(follow_symlinks=False)
            except FileNotFoundError:
                continue  # gone meanwhile
            if kind(facts.st_mode) and facts.st_mtime < oldest:
                yield Path(entry.path)
