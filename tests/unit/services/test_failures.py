"""What is stored of an error: plain values, whatever the error's class does."""

from typing import Any, ClassVar

import pytest

from celeriac.domain.errors import (
    BusyError,
    DatabaseBusyError,
    DatabaseTimeoutError,
    DatabaseUnavailableError,
    PermanentError,
    ProviderRateLimitedError,
    RetryableError,
    VariablesInvalidError,
)
from celeriac.domain.executions.model import Failed, Retry
from celeriac.domain.tasks import RetryPolicy
from celeriac.kit.json_types import storable
from celeriac.services.executions.raised import MAX_DETAILS, MAX_MESSAGE, describe, outcome_for
from tests.support import misuse_errors


class ShopClosedError(RetryableError):
    code = "shop_closed"


@pytest.mark.parametrize(
    ("error", "code", "retryable"),
    [
        (ShopClosedError("closed", opens=9), "shop_closed", True),
        (PermanentError("never"), "agent_failed_permanently", False),
        (VariablesInvalidError("no", field="x"), "variables_invalid", False),
        (DatabaseUnavailableError("away"), "database_unavailable", True),
        (LookupError("nothing"), "agent_failed", True),
        (misuse_errors.OwnBaseError("own"), "agent_failed", True),
    ],
)
def test_code_and_retryability_are_those_of_its_class(
    error: BaseException, code: str, retryable: bool
) -> None:
    raised = describe(error, attempt=2)
    assert (raised.failure.code, raised.retryable) == (code, retryable)
    assert raised.failure.message == str(error)
    assert raised.failure.details["type"] == type(error).__qualname__
    assert raised.failure.details["attempt"] == 2


@pytest.mark.parametrize(
    ("error", "away"),
    [
        (DatabaseUnavailableError("away"), True),
        (DatabaseBusyError("locked"), True),
        (DatabaseTimeoutError("too slow"), False),
        (BusyError("others are being checked"), True),
        (LookupError("nothing"), False),
    ],
)
def test_a_statement_that_is_too_slow_counts_as_a_retry(error: Exception, away: bool) -> None:
    raised = describe(error, attempt=1)
    assert raised.not_its_own is away
    assert isinstance(outcome_for(raised, RetryPolicy(max_retries=1), retry_count=1), Failed)


def test_a_rate_limit_is_copied_with_plain_values() -> None:
    class OddError(ProviderRateLimitedError):
        retry_after = float("inf")

        def __init__(self) -> None:
            Exception.__init__(self, "slow down")
            self.provider, self.model = "shop", None

    found = describe(OddError(), attempt=1).rate_limited
    assert found is not None
    assert type(found) is ProviderRateLimitedError
    assert (found.message, found.retry_after) == ("slow down", None)
    assert (found.provider, found.model) == ("shop", None)
    wait = describe(ProviderRateLimitedError("slow", retry_after=300), attempt=1)
    outcome = outcome_for(wait, RetryPolicy(), retry_count=0)
    assert isinstance(outcome, Retry)
    assert outcome.delay >= 300


def test_details_are_a_copy_that_can_be_stored() -> None:
    details: dict[str, Any] = {"seen": [1]}
    error = RetryableError("x")
    error.details = details
    stored = describe(error, attempt=1).failure.details
    details["seen"].append(object())
    assert stored["seen"] == [1]


def test_details_that_are_too_large_are_left_out_and_counted() -> None:
    stored = describe(RetryableError("x", all="y" * MAX_DETAILS), attempt=1).failure.details
    assert "all" not in stored
    assert stored["details_left_out"] > MAX_DETAILS


def test_a_long_message_is_cut() -> None:
    assert len(describe(ValueError("x" * 10**6), attempt=1).failure.message) == MAX_MESSAGE


@pytest.mark.parametrize("how", [name for name, each in misuse_errors.RAISED.items()])
def test_no_error_keeps_us_from_describing_it(how: str) -> None:
    made = misuse_errors.RAISED[how]()
    try:
        raise made
    except BaseException as error:  # noqa: BLE001 - what this is about
        raised = describe(error, attempt=1)
    assert storable(raised.failure.details)
    assert raised.failure.message
    assert raised.failure.details["traceback"]
    assert isinstance(outcome_for(raised, RetryPolicy(max_retries=0), retry_count=0), Failed)


def test_secrets_in_what_agents_raise_are_masked_as_in_logs() -> None:
    class OwnError(Exception):
        details: ClassVar[dict[str, str]] = {"request": "GET / Authorization: Bearer abc123def456"}

    def connect() -> None:
        raise OwnError("could not connect: password=hunter2hunter2 at postgresql://ada:pw@db/x")

    with pytest.raises(OwnError) as raised:
        connect()
    failure = describe(raised.value, attempt=1).failure
    stored = f"{failure.message} {failure.details}"
    assert "could not connect" in failure.message
    for secret in ("hunter2", "ada:pw", "abc123def456"):
        assert secret not in stored
