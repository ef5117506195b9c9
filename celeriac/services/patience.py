"""Trying again while the database is away or busy: for work that must outlive that."""

from collections.abc import Callable
from typing import TypeVar

import structlog
from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_random_exponential

from celeriac.domain.errors import DatabaseUnavailableError

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
        logger.warning(
            "database.unavailable", code=error.code, error=error.message, patience_seconds=seconds
        )
    retrying = Retrying(
        retry=retry_if_exception_type(DatabaseUnavailableError),
        wait=wait_random_exponential(multiplier=0.1, max=2),
        stop=stop_after_delay(seconds),
        reraise=True,
    )
    return retrying(work)
