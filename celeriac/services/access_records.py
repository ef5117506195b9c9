"""Audit entries about access: refused requests, and what administrators read of other users.

The first access of a kind is written before it is answered. Its repeats within a minute are counted
and written as one more entry when the minute is over, so that nobody can flood the trail.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from uuid import UUID

import structlog

from celeriac.db import audit, owners
from celeriac.db.engine import Database
from celeriac.domain.accounts import Actor
from celeriac.domain.errors import UnavailableError

logger = structlog.get_logger(__name__)

_WINDOW_SECONDS = 60.0
_MOST_WINDOWS = 10_000
ANONYMOUS = "anonymous"
_Key = tuple[str, ...]


@dataclass(slots=True)
class _Window:
    """Accesses of one kind within a minute."""

    until: float
    write: Callable[[int], None]
    repeats: int = 0


class AccessRecords:
    """Writes entries about access. Safe to share between threads."""

    def __init__(self, database: Database) -> None:
        """Write to `database`."""
        self._database = database
        self._lock = threading.Lock()
        self._windows: dict[_Key, _Window] = {}

    def refused(
        self,
        actor: Actor | None,
        *,
        code: str,
        method: str,
        operation: str,
        request_id: str | None,
        address: str,
    ) -> None:
        """Record that a request was refused with the problem `code`.

        `operation` is the operation's id in the description of the API. Without an actor the entry
        names only the client's `address`. If the database is away this is logged: the refusal
        stands.
        """
        name = actor.name if actor else ANONYMOUS
        details = {"code": code, "method": method, "address": address}

        def write(repeats: int) -> None:
            with self._database.statement() as connection:
                if actor is not None:
                    audit.record(
                        connection,
                        actor,
                        "request.refuse",
                        "operation",
                        [operation],
                        details=_counted(details, repeats),
                    )
                    return
                audit.by_program(
                    connection,
                    name,
                    "request.refuse",
                    "operation",
                    operation,
                    request_id=request_id,
                    details=_counted(details, repeats),
                )

        try:
            self._record((name, address, code, operation), write)
        except UnavailableError as error:
            logger.warning("audit.refusal_not_recorded", code=code, error=error.message)

    def admin_read(
        self, actor: Actor, resource_type: str, resource_id: UUID | None, operation: str
    ) -> None:
        """Record that an administrator reads what is another user's.

        `resource_id` is None for lists, which show everybody's. Raises DatabaseUnavailableError:
        what can't be recorded is not shown.
        """
        if not actor.sees_all:
            return
        key = (actor.name, operation, str(resource_id))
        if self._counts(key):
            return
        with self._database.statement() as connection:
            if resource_id is None:
                others = owners.has_others(connection, actor.user_id)
                owner = None
            else:
                owner = owners.owner_of(connection, resource_type, resource_id)
                others = owner not in {None, actor.user_id}
        if not others:
            return
        details = {"operation": operation, **({"owner_id": str(owner)} if owner else {})}

        def write(repeats: int) -> None:
            with self._database.statement() as connection:
                audit.record(
                    connection,
                    actor,
                    f"{resource_type}.{'list' if resource_id is None else 'read'}",
                    resource_type,
                    ["*" if resource_id is None else resource_id],
                    details=_counted(details, repeats),
                )

        self._record(key, write)

    def flush(self, *, everything: bool = False) -> None:
        """Write the repeats of minutes that are over, or of all."""
        now = time.monotonic()
        with self._lock:
            over = [key for key, each in self._windows.items() if everything or each.until <= now]
            ended = [self._windows.pop(key) for key in over]
        for window in ended:
            if window.repeats:
                try:
                    window.write(window.repeats)
                except UnavailableError as error:
                    logger.warning(
                        "audit.repeats_not_recorded", repeats=window.repeats, error=error.message
                    )

    def _counts(self, key: _Key) -> bool:
        """Count a repeat; False where no window is open for `key`."""
        with self._lock:
            window = self._windows.get(key)
            if window is None or window.until <= time.monotonic():
                return False
            window.repeats += 1
            return True

    def _record(self, key: _Key, write: Callable[[int], None]) -> None:
        if self._counts(key):
            return
        self.flush(everything=len(self._windows) >= _MOST_WINDOWS)
        write(0)
        with self._lock:
            self._windows[key] = _Window(time.monotonic() + _WINDOW_SECONDS, write)


def _counted(details: dict[str, str], repeats: int) -> dict[str, str | int]:
    return {**details, "repeats": repeats} if repeats else {**details}
