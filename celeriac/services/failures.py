"""From an exception to what is stored and decided about it.

Agents raise objects of classes that we have never seen: asking one for its text, its type or an
attribute runs code of theirs, which may raise anything. `describe` asks once, trusts nothing that
comes back, and returns plain values.
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
    PermanentError,
    ProviderError,
    ProviderRateLimitedError,
    UnavailableError,
    WorkerMisconfiguredError,
)
from celeriac.domain.outcome import Failed, Failure, MustWaitError, Parked, Retry
from celeriac.domain.retry import GiveUp, RetryPolicy, decide
from celeriac.kit.asking import asked, asked_object, asked_text, is_a, type_name
from celeriac.kit.jsontypes import JsonObject, loads, storable_text
from celeriac.logs.redact import redact_text

MAX_MESSAGE = 2_000
MAX_TRACEBACK = 20_000
MAX_DETAILS = 200_000
"""Characters of an error's details as JSON; larger ones are left out."""

_MAX_NAME = 200
_MAX_CHAIN = 100


@dataclass(frozen=True, slots=True)
class Raised:
    """What an agent raised, as plain values."""

    failure: Failure
    retryable: bool
    cancelled: bool
    """Whether it was a cancellation, by us or by the agent itself."""
    parked: Parked | None
    """How the attempt is to wait, where its context has said that it must."""
    retry_after: float | None
    """Seconds before which the provider asks not to be called again."""
    not_its_own: bool
    """Whether the fault is not the agent's: the process or the database was busy, or the database
    away, for longer than the attempt could wait.

    Not so for a statement that took too long: it may take too long every time.
    """
    worker_lacks: bool
    """Whether this worker lacks what the agent needs, and another may have it."""
    rate_limited: ProviderRateLimitedError | None
    """A copy of the error where the provider asks to slow down."""


def describe(error: BaseException, *, attempt: int) -> Raised:
    """Describe `error` for storage: stable code, message, type, traceback and attempt.

    Secrets in texts are masked as in logs. Never raises, whatever the error's class does. May
    block as long as that does.
    """
    kind = type(error)
    details = _details(error)
    name = details.get("type")
    if not isinstance(name, str):
        name = type_name(kind)
    message = redact_text(asked_text(lambda: str(error), MAX_MESSAGE))
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
        or (is_a(error, DatabaseUnavailableError) and not is_a(error, DatabaseTimeoutError)),
        worker_lacks=is_a(error, WorkerMisconfiguredError),
        rate_limited=_rate_limited(error, failure.message),
    )


def outcome_of(raised: Raised, policy: RetryPolicy, *, retry_count: int) -> Retry | Failed:
    """Decide what follows when an agent raised an error.

    An `ExecutionError` says itself whether another attempt may help; bad input never gets better;
    anything else may be a passing fault.
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
        return asked_text(lambda: error.code, _MAX_NAME) or InvalidInputError.code
    if is_a(error, UnavailableError):
        return asked_text(lambda: error.code, _MAX_NAME) or UnavailableError.code
    if not is_a(error, ExecutionError):
        return ExecutionError.code
    usual = PermanentError.code if is_a(error, PermanentError) else ExecutionError.code
    return asked_text(lambda: error.code, _MAX_NAME) or usual


def _retryable(error: BaseException) -> bool:
    if not is_a(error, ExecutionError):
        return not is_a(error, InvalidInputError)
    usual = not is_a(error, PermanentError)
    said: object = asked(lambda: error.retryable, usual)
    return said if isinstance(said, bool) else usual


def _rate_limited(error: BaseException, message: str) -> ProviderRateLimitedError | None:
    if not is_a(error, ProviderRateLimitedError):
        return None
    seconds: object = asked(lambda: error.retry_after, None)
    return ProviderRateLimitedError(
        message,
        retry_after=_seconds(seconds),
        provider=asked_text(lambda: error.provider, _MAX_NAME) or None,
        model=asked_text(lambda: error.model, _MAX_NAME) or None,
    )


def _retry_after(error: BaseException) -> float | None:
    if not is_a(error, ProviderError):
        return None
    return _seconds(asked(lambda: error.retry_after, None))


def _seconds(said: object) -> float | None:
    if type(said) not in (int, float):
        return None
    seconds = asked(lambda: float(said), -1.0)  # type: ignore[arg-type]
    return seconds if math.isfinite(seconds) and seconds >= 0 else None


def _details(error: BaseException) -> JsonObject:
    """Return what an error says of itself; agents may have put anything there."""
    text = asked_object(lambda: getattr(error, "details", {}), MAX_MESSAGE)
    if len(text) > MAX_DETAILS:
        return {"details_left_out": len(text)}
    plain: JsonObject = loads(text)
    return {
        name: redact_text(value) if isinstance(value, str) else value
        for name, value in plain.items()
    }


def _traceback(error: BaseException, last_line: str) -> str:
    """Format the traceback; of a chain that is too long or can't be formatted only the last part.

    Formatting takes a millisecond for each error that is the cause or context of another one, or
    is in a group.
    """
    lines = asked(lambda: None if _is_long(error) else traceback.format_exception(error), None)
    if lines is None:
        own: list[str] = asked(lambda: traceback.format_tb(error.__traceback__), [])
        lines = ["Traceback (most recent call last):\n", *own, f"{last_line}\n"]
    return redact_text(storable_text(asked(lambda: "".join(lines)[-MAX_TRACEBACK:], "")))


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
