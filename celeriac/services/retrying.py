"""Retries while the database is unavailable or busy."""

import asyncio
import time
from collections.abc import Awaitable, Callable
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

from celeriac.db.engine import Connection, Database, first_line
from celeriac.domain.errors import DatabaseUnavailableError
from celeriac.kit.backoff import Backoff
from celeriac.kit.later import Later
from celeriac.kit.threads import Threads, in_pool

logger = structlog.get_logger(__name__)

T = TypeVar("T")

_FIRST_PAUSE_SECONDS = 0.1
_LONGEST_PAUSE_SECONDS = 2.0
_LATER = Later("database: later")


def is_unavailable(error: BaseException) -> bool:
    """Whether the database is unavailable or busy."""
    return isinstance(error, DatabaseUnavailableError)


def retry_while_unavailable(
    work: Callable[[], T],
    *,
    seconds: float,
    on: Callable[[BaseException], bool] = is_unavailable,
) -> T:
    """Return `work()`, retried for up to `seconds` after errors that `on` accepts.

    By default these are DatabaseUnavailableError and its subclasses. Raises the last error when the
    time is up. `work` must be safe to repeat. The calling thread sleeps between tries, so a thread
    of a pool must not call this: raises RuntimeError there.
    """
    if in_pool():
        raise RuntimeError(
            "A thread of a pool must not sleep: call retry_statement from the coroutine."
        )
    try:
        return work()
    except Exception as error:
        if not on(error):
            raise
        _log(error, seconds)
    return Retrying(**_schedule(seconds, on))(work)


async def retry_statement(
    database: Database, work: Callable[[Connection], T], *, seconds: float = 60.0
) -> T:
    """Return `work(connection)`, called in autocommit and retried while `database` is unavailable.

    A thread of `database` calls it; none is held between tries.
    """

    def call() -> T:
        with database.autocommit() as connection:
            return work(connection)

    return await patiently_await(partial(database.threads.run, call), seconds=seconds)


async def patiently_await(work: Callable[[], Awaitable[T]], *, seconds: float) -> T:
    """Return `await work()`, retried in the same way."""
    try:
        return await work()
    except DatabaseUnavailableError as error:
        _log(error, seconds)
    retried: T = await AsyncRetrying(**_schedule(seconds, is_unavailable))(work)
    return retried


async def retry_until_stored_in(threads: Threads, work: Callable[[], T], *, seconds: float) -> T:
    """Do the same for work that must be done even if the coroutine is cancelled.

    `work` is called by one thread at a time, and not again after it has returned.
    """
    result = _Sure(threads, work, seconds).start()
    try:
        return await asyncio.shield(asyncio.wrap_future(result))
    except asyncio.CancelledError:
        result.add_done_callback(_log_undone)
        raise


class _Sure(Generic[T]):
    """Work that is tried until it is done or the time is up. No thread is held between tries."""

    def __init__(self, threads: Threads, work: Callable[[], T], seconds: float) -> None:
        self._threads = threads
        self._work = work
        self._seconds = seconds
        self._until: float | None = None
        """From the first failure on: an answer that doesn't come may take all the time."""
        self._context = copy_context()
        self._pauses = Backoff(_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS)
        self._result: Future[T] = Future()

    def start(self) -> Future[T]:
        """Try once; return the future of the result."""
        self._result.set_running_or_notify_cancel()  # it can't be cancelled from now on
        self._try()
        return self._result

    def _try(self) -> None:
        try:
            trying = self._threads.submit(self._context.run, self._work)
        except BaseException as error:  # noqa: BLE001 - the pool is closed, or has no thread
            self._result.set_exception(error)
        else:
            trying.add_done_callback(self._tried)

    def _tried(self, tried: Future[T]) -> None:
        if tried.cancelled():
            self._result.set_exception(RuntimeError("The process ends."))
            return
        error = tried.exception()
        if error is None:
            self._result.set_result(tried.result())
        elif isinstance(error, DatabaseUnavailableError) and self._has_time():
            self._again(error)
        else:
            self._result.set_exception(error)

    def _has_time(self) -> bool:
        now = time.monotonic()
        if self._until is None:
            self._until = now + self._seconds
        return now < self._until

    def _again(self, error: DatabaseUnavailableError) -> None:
        if not self._pauses.failing:
            self._context.run(_log, error, self._seconds)
        try:
            _LATER.call(self._pauses.failed(), self._try)
        except RuntimeError:  # no thread can be started to wait
            self._result.set_exception(error)


def _schedule(seconds: float, on: Callable[[BaseException], bool]) -> dict[str, Any]:
    return {
        "retry": retry_if_exception(on),
        "wait": wait_random_exponential(
            multiplier=_FIRST_PAUSE_SECONDS, max=_LONGEST_PAUSE_SECONDS
        ),
        "stop": stop_after_delay(seconds),
        "reraise": True,
    }


def _log(error: Exception, seconds: float) -> None:
    if isinstance(error, DatabaseUnavailableError):
        code, reason = error.code, error.message
    else:
        code, reason = type(error).__name__, first_line(error)
    logger.warning("database.unavailable", code=code, error=reason, patience_seconds=seconds)


def _log_undone(result: Future[Any]) -> None:
    """Log why work failed that no coroutine waits for any more."""
    error = result.exception()
    if isinstance(error, RuntimeError):  # the process ends, or has no thread
        logger.error("database.work_lost", error=str(error))
    elif error is not None:
        logger.error("database.work_lost", exc_info=error)
