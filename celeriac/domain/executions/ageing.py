"""When an execution that waits is raised to a higher priority (pure)."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Final

from celeriac.domain.tasks import Priority

RAISED: Final[Mapping[Priority, Priority]] = {
    Priority.LOW: Priority.NORMAL,
    Priority.NORMAL: Priority.HIGH,
}
"""Nothing becomes critical by waiting."""


def raised_after(priority: Priority, seconds: float) -> float:
    """Return for how long one of `priority`, a key of `RAISED`, must have been due.

    `seconds` is the setting: a low one becomes normal after it, and a normal one, also if it was
    low, high after twice that time.
    """
    return seconds * (1 + priority)


def raised_at(priority: int, due: datetime, seconds: float) -> datetime | None:
    """Return when one that is due since `due` is raised next; None if it never is."""
    if seconds <= 0 or priority not in RAISED:
        return None
    return due + timedelta(seconds=raised_after(Priority(priority), seconds))
