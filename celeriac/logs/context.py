"""Correlation ids: the one set that every log line of a request or an execution carries.

They live in context variables, so they follow a thread, a coroutine and everything it starts on
the event loop. Between processes they travel as `correlation()` and come back with `bound()`.
"""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from uuid import UUID

from structlog.contextvars import bound_contextvars, get_contextvars

CORRELATION_IDS = (
    "request_id",
    "user_id",
    "task_id",
    "execution_id",
    "session_id",
    "celery_task_id",
)
"""Also the order in which they stand on a line."""
_LONGEST_ID = 128


def bind(
    *,
    request_id: str | UUID | None = None,
    user_id: str | UUID | None = None,
    task_id: str | UUID | None = None,
    execution_id: str | UUID | None = None,
    session_id: str | UUID | None = None,
    celery_task_id: str | UUID | None = None,
) -> AbstractContextManager[None]:
    """Put the ids on every log line inside the `with`; None leaves what is bound outside."""
    given = {
        "request_id": request_id,
        "user_id": user_id,
        "task_id": task_id,
        "execution_id": execution_id,
        "session_id": session_id,
        "celery_task_id": celery_task_id,
    }
    return bound_contextvars(**{key: str(value) for key, value in given.items() if value})


def bound(ids: Mapping[str, object]) -> AbstractContextManager[None]:
    """Like `bind`, for ids from a message header or a parent process.

    What is no correlation id, no text, or longer than 128 characters is left out: a header is
    somebody else's word.
    """
    known = {
        key: value
        for key in CORRELATION_IDS
        if isinstance(value := ids.get(key), str) and 0 < len(value) <= _LONGEST_ID
    }
    return bound_contextvars(**known)


def correlation() -> dict[str, str]:
    """Return the ids bound here, for message headers and child processes."""
    values = get_contextvars()
    return {key: values[key] for key in CORRELATION_IDS if key in values}
