"""When to try again: pure decisions, no clock and no random source of their own."""

from dataclasses import dataclass

from pydantic import Field

from celeriac.domain.agent import Strict


class RetryPolicy(Strict):
    """How often and how patiently failed attempts are repeated.

    The defaults give waits of 2, 4 and 8 seconds (REQUIREMENTS B5), each shifted by jitter.
    """

    max_retries: int = Field(default=3, ge=0, le=100)
    base_seconds: float = Field(default=2.0, ge=0, le=3600)
    factor: float = Field(default=2.0, ge=1, le=10)
    max_seconds: float = Field(default=300.0, ge=0, le=86_400)
    jitter: float = Field(default=0.1, ge=0, le=1)
    """Share of the wait by which it may be longer or shorter: 0.1 means ±10 %."""


@dataclass(frozen=True, slots=True)
class RetryAfter:
    """Try again after `seconds`."""

    seconds: float


@dataclass(frozen=True, slots=True)
class GiveUp:
    """Do not try again; `reason` is `permanent` or `retries_exhausted`."""

    reason: str


def backoff(policy: RetryPolicy, retry_count: int, spread: float) -> float:
    """Return the seconds to wait before retry number `retry_count` + 1.

    `retry_count` counts the retries already made; `spread` in [-1, 1] places the wait within the
    jitter (0: the middle).
    """
    wait = min(policy.base_seconds * policy.factor**retry_count, policy.max_seconds)
    return wait * (1 + policy.jitter * spread)


def decide(
    policy: RetryPolicy,
    *,
    retry_count: int,
    retryable: bool,
    spread: float,
    retry_after: float | None = None,
) -> RetryAfter | GiveUp:
    """Decide what follows a failed attempt.

    A provider's own `retry_after` (seconds) is honoured where it is longer than the backoff, but
    never beyond one day.
    """
    if not retryable:
        return GiveUp("permanent")
    if retry_count >= policy.max_retries:
        return GiveUp("retries_exhausted")
    wait = backoff(policy, retry_count, spread)
    return RetryAfter(max(wait, min(retry_after or 0.0, 86_400.0)))
