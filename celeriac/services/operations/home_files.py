"""Removes old files of executions and sessions from this machine's home.

What is removed depends on the files that are here and on the rows of those that own them. The
keeper does this for its home as a part of retention, workers for theirs (`sweep`).
"""

import os
import re
import stat
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from uuid import UUID

import structlog

from celeriac.db import retention
from celeriac.db.engine import Database
from celeriac.domain.errors import DatabaseUnavailableError, ObjectStoreError
from celeriac.kit.files import remove_tree
from celeriac.kit.ids import parse_uuid
from celeriac.kit.locks import locked_alone
from celeriac.logs.writer import error_file
from celeriac.services.storage_paths import StoragePaths

logger = structlog.get_logger(__name__)

_DAY = 86_400
_DIRECTORY = re.compile(r"(.+)")
_LOG_FILE = re.compile(r"task-execution-(.+)\.log")
_ERROR_FILE = re.compile(r"task-errors-\d{4}-\d{2}-\d{2}\.log")
_RESTORE_DAYS = 1.0
_RESTORE = re.compile(r"[0-9a-f-]{36}\.[0-9a-f]{32}")
"""Names of directories that are being restored, or whose restore was killed (`WorkingFiles`)."""

_UNKNOWN_DAYS = 1.0
"""How long a directory of a session stays whose row is not there."""


def _never() -> bool:
    return False


class HomeFiles:
    """The files of executions and sessions in one home."""

    def __init__(
        self,
        database: Database,
        places: StoragePaths,
        *,
        executions: float,
        files: float,
        logs: float,
        batch: int,
        rest: Callable[[], bool] = _never,
    ) -> None:
        """`executions`, `files` and `logs` are days as in `RetentionPolicy`; 0 is for ever.

        `rest` is called after each `batch`; what is left waits for the next call if it returns
        true.
        """
        self._database = database
        self._places = places
        self._files = files
        self._logs = logs
        self._unknown = min((each for each in (executions, files) if each), default=0.0)
        self._batch = batch
        self._rest = rest

    def steps(self) -> list[tuple[str, Callable[[], int]]]:
        """Return what removes everything old from a home, by kind, for `run_step`."""
        return [
            ("session_directories", self.session_directories),
            ("workdirs", self.workdirs),
            ("saved_markers", self.saved_markers),
            ("log_files", self.log_files),
        ]

    def workdirs(self) -> int:
        """Remove directories of executions that ended long ago, or that are unknown."""
        if not self._unknown:
            return 0
        found = _old(self._places.workdirs, days=self._unknown, kind=stat.S_ISDIR)
        return self._of_executions(_owned(found, _DIRECTORY), days=self._files, remove=remove_tree)

    def log_files(self) -> int:
        """Remove log files of executions that have ended, and of errors, written long ago."""
        days, place = self._logs, self._places.logs
        if not days:
            return 0
        old = _owned(_old(place, days=days, kind=stat.S_ISREG), _LOG_FILE)
        removed = self._of_executions(old, days=None, remove=unlink)
        for path in _old(error_file(place, "").parent, days=days, kind=stat.S_ISREG):
            if _ERROR_FILE.fullmatch(path.name):
                removed += unlink(path)
        return removed

    def session_directories(self) -> int:
        """Remove directories of sessions that are deleted, or unknown for a day."""
        removed = 0
        there = _old(self._places.sessions, days=0, kind=stat.S_ISDIR)
        for batch in self._batches(_owned(there, _DIRECTORY)):
            with self._database.autocommit() as connection:
                known = retention.sessions_deleted(connection, list(batch))
            for session_id, path in batch.items():
                if known.get(session_id, _changed_before(path, _UNKNOWN_DAYS)):
                    removed += remove_tree(path)
        return removed

    def saved_markers(self) -> int:
        """Remove markers of directories that are not on this machine, and interrupted restores."""
        removed = 0
        markers = _owned(_old(self._places.saved, days=0, kind=stat.S_ISREG), _DIRECTORY)
        for batch in self._batches(markers):
            away = {each: path for each, path in batch.items() if not self._is_here(each)}
            if away:
                removed += self._unmarked(away)
        for path in _old(self._places.saved, days=_RESTORE_DAYS, kind=stat.S_ISDIR):
            if _RESTORE.fullmatch(path.name):
                removed += remove_tree(path)
        return removed

    def _unmarked(self, markers: dict[UUID, Path]) -> int:
        """Remove markers unless a restore on this machine has brought their directories back."""
        with locked_alone(self._places.saved) as lock:
            if lock is None:  # `WorkingFiles` replaces a directory
                return 0
            return sum(unlink(path) for each, path in markers.items() if not self._is_here(each))

    def _is_here(self, owner_id: UUID) -> bool:
        return self._places.session(owner_id).exists() or self._places.workdir(owner_id).exists()

    def _of_executions(
        self,
        found: Iterator[tuple[UUID, Path]],
        *,
        days: float | None,
        remove: Callable[[Path], bool],
    ) -> int:
        """Remove what belongs to no execution, or to one that ended more than `days` ago.

        With None, at any time; with 0, what belongs to an execution stays.
        """
        removed = 0
        for batch in self._batches(found):
            with self._database.autocommit() as connection:
                known = retention.ages(connection, list(batch), days=days or 0)
            for execution_id, path in batch.items():
                age = known.get(execution_id)
                if age is None or (age.old and days != 0):
                    removed += remove(path)
        return removed

    def _batches(self, found: Iterator[tuple[UUID, Path]]) -> Iterator[dict[UUID, Path]]:
        while batch := dict(islice(found, self._batch)):
            yield batch
            if self._rest():
                return


def run_step(kind: str, step: Callable[[], int]) -> int:
    """Run a step and return its count; an error is logged and does not stop the others."""
    try:
        count = step()
    except DatabaseUnavailableError as error:
        logger.warning("retention.database_unavailable", kind=kind, error=error.message)
        return 0
    except ObjectStoreError as error:
        logger.warning("retention.object_store_unavailable", kind=kind, error=error.message)
        return 0
    except Exception:
        # other kinds of files and rows must not accumulate because of it
        logger.exception("retention.step_failed", kind=kind)
        return 0
    if count:
        logger.info("retention.removed", kind=kind, count=count)
    return count


def unlink(path: Path) -> bool:
    """Remove a file; return whether it is gone."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        kind = path.parent.name
        logger.warning("retention.files_stay", kind=kind, path=path.name, error=error.strerror)
        return False
    return True


def _owned(paths: Iterator[Path], name: re.Pattern[str]) -> Iterator[tuple[UUID, Path]]:
    """Yield those of `paths` whose names hold the id of an execution or session, with the id."""
    for path in paths:
        named = name.fullmatch(path.name)
        owner_id = None if named is None else parse_uuid(named[1])
        if owner_id is not None:
            yield owner_id, path


def _old(place: Path, *, days: float, kind: Callable[[int], bool]) -> Iterator[Path]:
    """Yield the entries of `place` of a `kind` that were last changed more than `days` ago."""
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
                continue  # removed meanwhile
            if kind(facts.st_mode) and facts.st_mtime < oldest:
                yield Path(entry.path)


def _changed_before(path: Path, days: float) -> bool:
    try:
        return path.lstat().st_mtime < time.time() - days * _DAY
    except FileNotFoundError:
        return False  # removed meanwhile
