"""From an exception to what is stored and decided about it."""

import random
import traceback

from celeriac.domain.errors import ExecutionError, InvalidInputError, ProviderError
from celeriac.domain.outcome import Failed, Failure, Retry
from celeriac.domain.retry import GiveUp, RetryPolicy, decide
from celeriac.kit.jsontypes import JsonValue, storable, storable_text

MAX_MESSAGE = 2_000
MAX_TRACEBACK = 20_000


def failure_of(error: BaseException, *, attempt: int) -> Failure:
    """Describe `error` for storage: stable code, message, type, traceback and attempt."""
    code = error.code if isinstance(error, ExecutionError | InvalidInputError) else "agent_failed"
    details = _details(error)
    lines = "".join(traceback.format_exception(error))
    return Failure(
        code=code,
        message=storable_text(str(error) or type(error).__name__)[:MAX_MESSAGE],
        details={
            "traceback": storable_text(lines)[-MAX_TRACEBACK:],
            **details,
            "type": details.get("type", type(error).__qualname__),
            "attempt": attempt,
        },
    )


def outcome_of(
    error: BaseException, policy: RetryPolicy, *, attempt: int, retry_count: int
) -> Retry | Failed:
    """Decide what follows when an agent raised `error`.

    An `ExecutionError` says itself whether another attempt may help; bad input never gets better;
    anything else may be a passing fault.
    """
    failure = failure_of(error, attempt=attempt)
    decision = decide(
        policy,
        retry_count=retry_count,
        retryable=_retryable(error),
        spread=random.uniform(-1, 1),
        retry_after=error.retry_after if isinstance(error, ProviderError) else None,
    )
    if isinstance(decision, GiveUp):
        details = {**failure.details, "gave_up": decision.reason}
        return Failed(Failure(failure.code, failure.message, details))
    return Retry(failure, decision.seconds)


def _retryable(error: BaseException) -> bool:
    if isinstance(error, ExecutionError):
        return error.retryable
    return not isinstance(error, InvalidInputError)


def _details(error: BaseException) -> dict[str, JsonValue]:
    """Return what an error says of itself; agents may have put anything there."""
    details = dict(getattr(error, "details", {}))
    try:
        storable(details)
    except TypeError:
        return {
            storable_text(str(name)): storable_text(str(value)) for name, value in details.items()
        }
    return details
