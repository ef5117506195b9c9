"""The log lines of executions, for actors who may see these."""

import socket
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import UUID

from celeriac.domain.accounts import Actor
from celeriac.domain.errors import InvalidInputError, LogsNotHereError
from celeriac.domain.executions.model import Execution
from celeriac.kit.words import counted
from celeriac.logs import LEVELS
from celeriac.logs.execution_log import ExecutionLog, Follower, Part, Position
from celeriac.logs.reading import LogLine
from celeriac.services.executions.queries import Queries
from celeriac.services.storage_paths import StoragePaths


@dataclass(frozen=True, slots=True)
class LogPage:
    """Some lines of an execution's log, in the order in which they were written."""

    lines: Sequence[tuple[LogLine, Position]]
    raw: Sequence[bytes]
    """The same as they are in the file."""
    position: Position | None
    """Behind them; None if there is no file yet."""
    more: bool
    restarted: bool
    elsewhere: str | None
    """The host whose worker's lines are not in the file."""


class ExecutionLogs:
    """Reads the log files of this machine. Safe to share between threads."""

    def __init__(
        self, queries: Queries, places: StoragePaths, *, enabled: bool, kept_days: float
    ) -> None:
        """`enabled` is the setting for files of executions, `kept_days` when they are removed."""
        self._queries = queries
        self._places = places
        self._enabled = enabled
        self._kept_days = kept_days

    def read(
        self,
        actor: Actor,
        execution_id: UUID,
        *,
        after: str | None = None,
        tail: int | None = None,
        limit: int = 100,
        level: str = "debug",
    ) -> LogPage:
        """Return up to `limit` lines after the position `after`, or the last `tail` ones.

        Those below `level` are left out; a page reads at most a megabyte of the file. Raises
        NotFoundError, LogsNotHereError, and InvalidInputError for `after`.
        """
        execution = self._queries.execution(actor, execution_id)
        position = None if after is None else parsed_position(after)
        log = self._log(execution_id)
        try:
            part = log.tail(tail) if tail is not None else log.read(position, most_lines=limit)
            elsewhere = self._elsewhere(execution, log)
        except OSError as error:
            if not execution.status.terminal and self._enabled and not _other_host(execution):
                return LogPage((), (), None, more=False, restarted=False, elsewhere=None)
            raise LogsNotHereError(execution_id, self._why(execution)) from error
        kept = [
            (line, position, raw)
            for raw, position in part.lines
            for line, _ in Part([(raw, position)], position, more=False).parsed()
            if is_at_least(line, level)
        ]
        return LogPage(
            [(line, position) for line, position, _ in kept],
            [raw for *_, raw in kept],
            part.position,
            part.more,
            part.restarted,
            elsewhere,
        )

    def follower(self, execution_id: UUID, after: Position | None) -> Follower:
        """Return what reads the lines of an execution that the actor may see."""
        return Follower(self._log(execution_id), after)

    def _log(self, execution_id: UUID) -> ExecutionLog:
        return ExecutionLog(self._places.logs, execution_id)

    def _elsewhere(self, execution: Execution, log: ExecutionLog) -> str | None:
        host = _other_host(execution)
        return host if host is not None and not log.has_worker() else None

    def _why(self, execution: Execution) -> str:
        if not self._enabled:
            return (
                "no file is written for each execution: CELERIAC_LOG_EXECUTION_FILES is false. Set "
                "it to true for API, workers and beat"
            )
        ended = execution.completed_at
        if ended is not None and datetime.now(UTC) - ended > timedelta(days=self._kept_days):
            return (
                f"such files are removed {counted(self._kept_days, 'day')} after their last line "
                "(CELERIAC_RETENTION_LOGS_DAYS)"
            )
        host = _other_host(execution)
        if host is not None:
            return (
                f"its worker was on the host {host}, the API is on {socket.gethostname()}. Let "
                "both share one CELERIAC_LOG_DIR, or use `celeriac timeline` there"
            )
        return "it was removed, or CELERIAC_LOG_DIR is another directory than the workers'"


def parsed_position(text: str) -> Position:
    """Return the position of `next_after`. Raises InvalidInputError."""
    try:
        return Position.parse(text)
    except ValueError as error:
        raise InvalidInputError(f"after {error}.", field="after") from error


def is_at_least(line: LogLine, level: str) -> bool:
    """Whether a line has this level or a higher one; an unknown one counts as the highest."""
    order = [each.lower() for each in LEVELS]
    return line.level not in order or order.index(line.level) >= order.index(level)


def _other_host(execution: Execution) -> str | None:
    """Return the host of the execution's last worker if it is not this one."""
    name = execution.worker_hostname
    if name is None:
        return None
    host = name.partition("@")[2].rpartition("/")[0] or name
    return None if host in {socket.gethostname(), socket.getfqdn()} else host
