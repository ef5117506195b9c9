"""Trying again while the database is away or busy: for work that must outlive that."""

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

import structlog
from tenacity import (
    AsyncRetrying,
    Retrying,
    retry_if_exception_type,
    stop_after_delay,
    wait_random_exponential,
)

from celeriac.domain.errors import DatabaseUnavailableError
from celeriac.kit.threads import Threads

logger = structlog.get_logger(__name__)

T = TypeVar("T")


def patiently(work: Callable[[], T], *, seconds: float) -> T:
    """Return `work()`, tried again for up to `seconds` while the database is away or busy.

    Raises the last DatabaseUnavailableError (or one of its kinds) when the time is up. `work` must
    be safe to repeat.
    """
    try:
        return work()
    except DatabaseUnavailableError as error:
        _log(error, seconds)
    return Retrying(**_schedule(seconds))(work)


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
        retried: T = await AsyncRetrying(**_schedule(seconds))(threads.run, work)
    except asyncio.CancelledError:
        if surely:
            threads.submit(patiently, work, seconds=seconds)
        raise
    return retried


def _schedule(seconds: float) -> dict[str, Any]:
    return {
        "retry": retry_if_exception_type(DatabaseUnavailableError),
        "wait": wait_random_exponential(multiplier=0.1, max=2),
        "stop": stop_after_delay(seconds),
        "reraise": True,
    }


def _log(error: DatabaseUnavailableError, seconds: float) -> None:
    logger.warning(
        "database.unavailable", code=error.code, error=error.message, patience_seconds=seconds
    )
