"""When to try again."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celeriac.domain.tasks import GiveUp, RetryAfter, RetryPolicy, backoff, decide

DAY = 86_400.0
policies = st.builds(
    RetryPolicy,
    max_retries=st.integers(0, 100),
    base_seconds=st.floats(0, 3600),
    factor=st.floats(1, 10),
    max_seconds=st.floats(0, DAY),
    jitter=st.floats(0, 1),
)


@pytest.mark.requirement("B5")
def test_the_default_waits_are_two_four_and_eight_seconds() -> None:
    assert [backoff(RetryPolicy(), count, 0.0) for count in range(3)] == [2.0, 4.0, 8.0]


@pytest.mark.requirement("A9")
def test_three_retries_by_default_then_it_is_given_up() -> None:
    decisions = [
        decide(RetryPolicy(), retry_count=count, retryable=True, spread=0.0) for count in range(4)
    ]
    assert decisions == [RetryAfter(2), RetryAfter(4), RetryAfter(8), GiveUp("retries_exhausted")]


@pytest.mark.requirement("A9")
def test_what_can_t_get_better_is_given_up_at_once() -> None:
    decision = decide(RetryPolicy(), retry_count=0, retryable=False, spread=0.0, retry_after=5.0)
    assert decision == GiveUp("permanent")


@pytest.mark.parametrize(
    ("asked", "seconds"), [(None, 2.0), (1.0, 2.0), (30.0, 30.0), (10 * DAY, DAY)]
)
def test_a_provider_s_wish_is_honoured_where_it_is_longer(
    asked: float | None, seconds: float
) -> None:
    decision = decide(RetryPolicy(), retry_count=0, retryable=True, spread=0.0, retry_after=asked)
    assert decision == RetryAfter(seconds)


@given(policies, st.integers(0, 100), st.floats(-1, 1))
def test_a_wait_stays_within_its_jitter_and_its_maximum(
    policy: RetryPolicy, count: int, spread: float
) -> None:
    middle = backoff(policy, count, 0.0)
    assert 0 <= middle <= policy.max_seconds
    wait = backoff(policy, count, spread)
    slack = 1e-9 * max(1.0, middle)
    assert middle * (1 - policy.jitter) - slack <= wait <= middle * (1 + policy.jitter) + slack


@given(policies, st.integers(0, 99))
def test_waits_never_shrink(policy: RetryPolicy, count: int) -> None:
    assert backoff(policy, count, 0.0) <= backoff(policy, count + 1, 0.0)
