"""Turns what agents raise into plain values, and these into outcomes.

Exceptions of agents have unknown classes: reading their text or attributes runs code of users,
which may raise anything. `describe` reads each once, validates it, and returns plain values.
"""

import math
import random
import traceback
from asyncio import CancelledError
from dataclasses import dataclass

from celeriac.domain.errors import (
    BusyError,
    DatabaseTimeoutError,
    DatabaseUnavailableError,
    ExecutionError,
    InvalidInputError,
    ObjectStoreError,
    PermanentError,
    ProviderError,
    ProviderRateLimitedError,
    UnavailableError,
    WorkerMisconfiguredError,
)
from celeriac.domain.executions.model import Failed, Failure, MustWaitError, Parked, Retry
from celeriac.domain.tasks import GiveUp, RetryPolicy, decide
from celeriac.kit.json_types import JsonObject, loads, storable_text
from celeriac.kit.untrusted import is_a, read_json_object, read_text, result_or, type_name
from celeriac.logs.redact import redact_text

MAX_MESSAGE = 2_000
MAX_TRACEBACK = 20_000
MAX_DETAILS = 200_000
"""The limit of an error's details, in characters of JSON; larger ones are left out."""

_MAX_NAME = 200
_MAX_CHAIN = 100


@dataclass(frozen=True, slots=True)
class Raised:
    """An exception of an agent, as plain values."""

    failure: Failure
    retryable: bool
    cancelled: bool
    """Whether it was a cancellation, by Celeriac or by the agent itself."""
    parked: Parked | None
    """How the attempt must be parked, if its context requires it."""
    retry_after: float | None
    """The provider's Retry-After, in seconds."""
    not_its_own: bool
    """Whether the fault is not the agent's: the process or the database was busy or unavailable for
    longer than the attempt could wait.

    False for a statement time-out: the statement may take too long every time.
    """
    worker_lacks: bool
    """Whether this worker lacks what the agent needs; another one may have it."""
    rate_limited: ProviderRateLimitedError | None
    """A copy of the error if the provider answered 429."""


def describe(error: BaseException, *, attempt: int) -> Raised:
    """Describe `error` for storage: stable code, message, type, traceback and attempt.

    Secrets in texts are masked as in logs. Never raises, but may block if the error's class does.
    """
    kind = type(error)
    details = _details(error)
    name = details.get("type")
    if not isinstance(name, str):
        name = type_name(kind)
    message = redact_text(read_text(lambda: str(error), MAX_MESSAGE))
    traceback_text = _traceback(error, f"{name}: {message}" if message else name)
    failure = Failure(
        code=_code(error),
        message=message or name,
        details={"traceback": traceback_text, **details, "type": name, "attempt": attempt},
    )
    return Raised(
        failure=failure,
        retryable=_retryable(error),
        cancelled=issubclass(kind, CancelledError),
        parked=error.parked if kind is MustWaitError else None,  # type: ignore[attr-defined]
        retry_after=_retry_after(error),
        not_its_own=is_a(error, BusyError)
        or is_a(error, ObjectStoreError)
        or (is_a(error, DatabaseUnavailableError) and not is_a(error, DatabaseTimeoutError)),
        worker_lacks=is_a(error, WorkerMisconfiguredError),
        rate_limited=_rate_limited(error, failure.message),
    )


def outcome_for(raised: Raised, policy: RetryPolicy, *, retry_count: int) -> Retry | Failed:
    """Return the outcome of an attempt whose agent raised an error.

    An `ExecutionError` says whether a retry may help; invalid input is never retried; anything else
    is.
    """
    failure = raised.failure
    decision = decide(
        policy,
        retry_count=retry_count,
        retryable=raised.retryable,
        spread=random.uniform(-1, 1),
        retry_after=raised.retry_after,
    )
    if isinstance(decision, GiveUp):
        details = {**failure.details, "gave_up": decision.reason}
        return Failed(Failure(failure.code, failure.message, details))
    return Retry(failure, decision.seconds)


def _code(error: BaseException) -> str:
    if is_a(error, InvalidInputError):
        return read_text(lambda: error.code, _MAX_NAME) or InvalidInputError.code
    if is_a(error, UnavailableError):
        return read_text(lambda: error.code, _MAX_NAME) or UnavailableError.code
    if not is_a(error, ExecutionError):
        return ExecutionError.code
    usual = PermanentError.code if is_a(error, PermanentError) else ExecutionError.code
    return read_text(lambda: error.code, _MAX_NAME) or usual


def _retryable(error: BaseException) -> bool:
    if not is_a(error, ExecutionError):
        return not is_a(error, InvalidInputError)
    usual = not is_a(error, PermanentError)
    said: object = result_or(lambda: error.retryable, usual)
    return said if isinstance(said, bool) else usual


def _rate_limited(error: BaseException, message: str) -> ProviderRateLimitedError | None:
    if not is_a(error, ProviderRateLimitedError):
        return None
    return ProviderRateLimitedError(
        message,
        retry_after=_retry_after(error),
        provider=read_text(lambda: error.provider, _MAX_NAME) or None,
        model=read_text(lambda: error.model, _MAX_NAME) or None,
    )


def _retry_after(error: BaseException) -> float | None:
    if not is_a(error, ProviderError):
        return None
    said: object = result_or(lambda: error.retry_after, None)
    if type(said) not in (int, float):
        return None
    seconds = result_or(lambda: float(said), -1.0)  # type: ignore[arg-type]
    return seconds if math.isfinite(seconds) and seconds >= 0 else None


def _details(error: BaseException) -> JsonObject:
    """Return the `details` of an error; agents may put anything there."""
    text = read_json_object(lambda: getattr(error, "details", {}), MAX_MESSAGE)
    if len(text) > MAX_DETAILS:
        return {"details_left_out": len(text)}
    plain: JsonObject = loads(text)
    return {
        name: redact_text(value) if isinstance(value, str) else value
        for name, value in plain.items()
    }


def _traceback(error: BaseException, last_line: str) -> str:
    """Format the traceback; only the last error if the chain is too long or can't be formatted.

    Formatting takes a millisecond for each error in the chain or in a group.
    """
    lines = result_or(lambda: None if _is_long(error) else traceback.format_exception(error), None)
    if lines is None:
        own: list[str] = result_or(lambda: traceback.format_tb(error.__traceback__), [])
        lines = ["Traceback (most recent call last):\n", *own, f"{last_line}\n"]
    return redact_text(storable_text(result_or(lambda: "".join(lines)[-MAX_TRACEBACK:], "")))


def _is_long(error: BaseException) -> bool:
    seen: set[int] = set()
    left = [error]
    while left:
        each = left.pop()
        if id(each) in seen:
            continue
        seen.add(id(each))
        grouped = each.exceptions if is_a(each, BaseExceptionGroup) else ()
        if len(seen) + len(grouped) > _MAX_CHAIN:
            return True
        left += [one for one in (each.__cause__, each.__context__, *grouped) if one is not None]
    return False
