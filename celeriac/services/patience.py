"""Trying again while the database is away or busy: for work that must outlive that."""

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

import structlog
from tenacity import (
    AsyncRetrying,
    Retrying,
    retry_if_exception,
    stop_after_delay,
    wait_random_exponential,
)

from celeriac.db.engine import first_line
from celeriac.domain.errors import DatabaseUnavailableError
from celeriac.kit.threads import Threads

logger = structlog.get_logger(__name__)

T = TypeVar("T")


def is_unavailable(error: BaseException) -> bool:
    """Whether the database is away or busy."""
    return isinstance(error, DatabaseUnavailableError)


def patiently(
    work: Callable[[], T],
    *,
    seconds: float,
    on: Callable[[BaseException], bool] = is_unavailable,
) -> T:
    """Return `work()`, tried again for up to `seconds` after the errors that `on` is true for.

    By default those are DatabaseUnavailableError and its kinds. Raises the last of them when the
    time is up. `work` must be safe to repeat.
    """
    try:
        return work()
    except Exception as error:
        if not on(error):
            raise
        _log(error, seconds)
    return Retrying(**_schedule(seconds, on))(work)


async def patiently_in(
    threads: Threads, work: Callable[[], T], *, seconds: float, surely: bool = False
) -> T:
    """Do the same from a coroutine: `threads` call `work`, and none is held between two tries.

    Where the coroutine is cancelled, a thread goes on alone with what must be done `surely`.
    """
    try:
        return await threads.run(work)
    except DatabaseUnavailableError as error:
        _log(error, seconds)
    try:
        retried: T = await AsyncRetrying(**_schedule(seconds, is_unavailable))(threads.run, work)
    except asyncio.CancelledError:
        if surely:
            threads.submit(patiently, work, seconds=seconds)
        raise
    return retried


def _schedule(seconds: float, on: Callable[[BaseException], bool]) -> dict[str, Any]:
    return {
        "retry": retry_if_exception(on),
        "wait": wait_random_exponential(multiplier=0.1, max=2),
        "stop": stop_after_delay(seconds),
        "reraise": True,
    }


def _log(error: Exception, seconds: float) -> None:
    if isinstance(error, DatabaseUnavailableError):
        code, reason = error.code, error.message
    else:
        code, reason = type(error).__name__, first_line(error)
    logger.warning("database.unavailable", code=code, error=reason, patience_seconds=seconds)
