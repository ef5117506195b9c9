"""The outcomes of attempts that did not complete."""

import random

import structlog

from celeriac.domain.errors import (
    HardTimeLimitError,
    RetryableError,
    SpecificationUnreadableError,
)
from celeriac.domain.executions.model import (
    Claim,
    ExecutionSpec,
    Failure,
    HandedBack,
    Outcome,
    Stopped,
)
from celeriac.domain.tasks import RetryPolicy
from celeriac.kit.backoff import grown
from celeriac.services.executions.attempt import Attempt, StopReason
from celeriac.services.executions.raised import Raised, describe, outcome_for

logger = structlog.get_logger(__name__)

LONGEST_HAND_BACK_SECONDS = 300.0
"""The longest delay of an attempt that was handed back; it doubles each time."""

_TURN_SECONDS = 1.0
_LONGEST_TURN_SECONDS = 30.0

_STOPPED: dict[StopReason | None, Outcome | None] = {
    StopReason.LEASE_LOST: None,
    StopReason.CANCELLED: Stopped(),
    StopReason.SHUTDOWN: HandedBack(),
}
"""Outcomes of attempts that were stopped from outside, whatever the agent raised then."""


def outcome_of_error(
    raised: Raised, attempt: Attempt, claim: Claim, spec: ExecutionSpec
) -> Outcome | None:
    """Return the outcome of an attempt whose agent raised, by itself or because it was stopped."""
    if attempt.stop_reason in _STOPPED:
        return _STOPPED[attempt.stop_reason]
    if attempt.stop_reason is StopReason.HARD_LIMIT:
        limit = spec.task.limits.hard_seconds
        error = HardTimeLimitError(f"The attempt was stopped at its hard limit of {limit:g} s.")
        raised = describe(error, attempt=claim.lease.attempt)
    elif raised.parked is not None:
        return raised.parked
    elif raised.not_its_own:
        return _handed_back(raised.failure, claim)
    elif raised.cancelled:
        cancelled = RetryableError("The agent cancelled itself.")
        raised = describe(cancelled, attempt=claim.lease.attempt)
    return outcome_for(raised, spec.task.retry, retry_count=claim.retry_count)


def outcome_of_fault(
    error: BaseException, attempt: Attempt, claim: Claim, spec: ExecutionSpec | None
) -> Outcome | None:
    """Return the outcome of an attempt that failed outside its agent."""
    if attempt.stop_reason in _STOPPED:
        return _STOPPED[attempt.stop_reason]
    raised = describe(error, attempt=claim.lease.attempt)
    if raised.not_its_own or isinstance(error, SpecificationUnreadableError):
        return _handed_back(raised.failure, claim)
    logger.error("execution.fault", exc_info=error)
    policy = RetryPolicy() if spec is None else spec.task.retry
    return outcome_for(raised, policy, retry_count=claim.retry_count)


def outcome_of_turn(attempt: Attempt, claim: Claim) -> Outcome | None:
    """Return the outcome of an attempt that waits for its turn in a process; it tries again."""
    if attempt.stop_reason in _STOPPED:
        return _STOPPED[attempt.stop_reason]
    seconds = grown(_TURN_SECONDS, claim.lease.attempt, _LONGEST_TURN_SECONDS)
    return HandedBack(delay=seconds * random.uniform(0.5, 1))


def _handed_back(failure: Failure, claim: Claim) -> HandedBack:
    """Hand the attempt back, with a delay, for a fault that is not its agent's."""
    seconds = grown(1.0, claim.lease.attempt, LONGEST_HAND_BACK_SECONDS)
    return HandedBack(failure, seconds * random.uniform(0.5, 1))
