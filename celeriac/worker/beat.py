"""The keeper: beat's scheduler class that does the housekeeping (DESIGN section 3).

Any number of beats may run: every action is a claim that only one of them can make.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import structlog
from celery.beat import Scheduler

from celeriac.db import budgets, workers
from celeriac.domain.errors import DatabaseUnavailableError
from celeriac.kit.guard import hide_memory
from celeriac.settings import KeeperSettings
from celeriac.wiring import Container, build, build_notices, build_retention

logger = structlog.get_logger(__name__)

_CONNECTIONS = 4
"""One for the chores in their turns, the others for those on threads of their own."""
_WORKERS_KEPT_SECONDS = 86_400.0
_NOTICE_SECONDS = 2.0
_WITHDRAW_SECONDS = 15.0


@dataclass(slots=True)
class Chore:
    """Something to do every `seconds`; `work` says how much it did."""

    name: str
    seconds: float
    work: Callable[[], int]
    due: float = 0.0


class Keeper(Scheduler):
    """Runs the chores; Celery's own schedule stays empty (schedules are rows)."""

    def __init__(self, *args: Any, lazy: bool = False, **kwargs: Any) -> None:
        """Make the parts, unless Celery only wants to look at the class (`lazy`)."""
        self._container: Container | None = None
        self._chores: list[Chore] = []
        super().__init__(*args, lazy=lazy, **kwargs)

    def setup_schedule(self) -> None:
        """Connect; called by Celery once, in the beat process."""
        hide_memory()
        settings = self.app.celeriac.settings
        self._container = build(settings, service="beat", connections=_CONNECTIONS, app=self.app)
        self._chores = chores(self._container, settings.keeper)

    def tick(self, *_: Any, **__: Any) -> float:
        """Do what is due; return the seconds until something is due again."""
        for chore in self._chores:
            if time.monotonic() >= chore.due:
                chore.due = time.monotonic() + chore.seconds
                self._do(chore)
        rest = min(chore.due for chore in self._chores) - time.monotonic()
        return max(rest, 0.01)

    def close(self) -> None:
        """Close the connections at beat's end."""
        if self._container is not None:
            self._container.close()

    def _do(self, chore: Chore) -> None:
        try:
            done = chore.work()
        except DatabaseUnavailableError as error:
            logger.warning("keeper.database_unavailable", chore=chore.name, error=error.message)
            return
        if done:
            logger.info("keeper.done", chore=chore.name, count=done)


def chores(container: Container, options: KeeperSettings) -> list[Chore]:
    """Return the keeper's chores in the order in which they are done."""
    limit = options.batch_size

    interval = options.interval_seconds
    recover, expire = container.recover, container.expire

    def release() -> int:
        with container.database.statement() as connection:
            return budgets.release_leaked(connection, limit=limit)

    def dispatch() -> int:
        until = time.monotonic() + interval
        total = 0
        while sent := container.dispatch.due():
            total += sent
            if time.monotonic() >= until:
                break  # under load there is always more, and other chores wait
        return total

    def tidy_workers() -> int:
        with container.database.statement() as connection:
            return workers.forget(connection, older_than_seconds=_WORKERS_KEPT_SECONDS)

    notices = build_notices(container)
    telling = [Chore("notify_of_approvals", _NOTICE_SECONDS, notices)] if notices else []
    return [
        Chore("rescue_lost_workers", interval, lambda: recover.lost_workers(limit)),
        Chore(
            "resend_lost_messages",
            2.0,
            lambda: recover.lost_messages(older_than=options.resend_seconds, limit=limit),
        ),
        Chore("resume_waiting", interval, lambda: recover.waited_enough(limit)),
        Chore("release_reservations", 2.0, release),
        Chore("expire_approvals", interval, lambda: expire.overdue(limit)),
        Chore("dispatch_due", interval, dispatch),
        Chore("withdraw_approvals", _WITHDRAW_SECONDS, lambda: expire.unneeded(limit)),
        *telling,
        Chore("forget_gone_workers", 3600.0, tidy_workers),
        Chore(
            "retention", container.settings.retention.interval_seconds, build_retention(container)
        ),
    ]
