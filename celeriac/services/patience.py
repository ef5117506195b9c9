"""Trying again while the database is away or busy: for work that must outlive that."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextvars import copy_context
from functools import partial
from typing import Any, Generic, TypeVar

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


async def patiently_in(threads: Threads, work: Callable[[], T], *, seconds: float) -> T:
    """Do the same from a coroutine: `threads` call `work`, and none is held between two tries."""
    try:
        return await threads.run(work)
    except DatabaseUnavailableError as error:
        _log(error, seconds)
    retried: T = await AsyncRetrying(**_schedule(seconds, is_unavailable))(threads.run, work)
    return retried


async def surely_in(threads: Threads, work: Callable[[], T], *, seconds: float) -> T:
    """Do as `patiently_in` what must be done even where the coroutine is cancelled.

    A thread then does `work` alone. It is called by one thread at a time, and not again after it
    has returned.
    """
    once = _Once(work)
    try:
        return await patiently_in(threads, once, seconds=seconds)
    except asyncio.CancelledError:
        alone = partial(patiently, once, seconds=seconds)
        try:
            threads.submit(copy_context().run, alone).add_done_callback(_log_undone)
        except RuntimeError as error:  # the process ends
            logger.error("database.work_lost", error=str(error))  # noqa: TRY400 - it says all
        raise


class _Once(Generic[T]):
    """Work that threads may call again: the one that has done it does it for all."""

    def __init__(self, work: Callable[[], T]) -> None:
        self._work = work
        self._lock = threading.Lock()
        self._results: list[T] = []

    def __call__(self) -> T:
        with self._lock:
            if not self._results:
                self._results.append(self._work())
            return self._results[0]


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


def _log_undone(future: Future[Any]) -> None:
    """Log why work that no coroutine waits for was not done."""
    if future.cancelled():
        logger.error("database.work_lost", error="The process ends.")
    elif (error := future.exception()) is not None:
        logger.error("database.work_lost", exc_info=error)
