"""How many unknown keys an address may have looked up."""

import pytest

from celeriac.api.core.auth import BadKeys
from celeriac.domain.errors import TooManyRequestsError


class Clock:
    """Time as the test has it."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        """Return the time."""
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def keys(clock: Clock) -> BadKeys:
    return BadKeys(per_minute=30, clock=clock)


def _guess(keys: BadKeys, address: str, count: int) -> int:
    """Try keys until one is not looked up; return how many were."""
    for number in range(count):
        try:
            keys.begin(address, f"guess {number}")
        except TooManyRequestsError:
            return number
        keys.failed(f"guess {number}")
    return count


def test_an_allowance_is_used_up_and_fills_up_again(keys: BadKeys, clock: Clock) -> None:
    assert _guess(keys, "10.0.0.1", 100) == 30
    with pytest.raises(TooManyRequestsError) as caught:
        keys.begin("10.0.0.1", "another")
    assert caught.value.retry_after == 2
    clock.now += caught.value.retry_after
    assert _guess(keys, "10.0.0.1", 100) == 1
    clock.now += 3600
    assert _guess(keys, "10.0.0.1", 100) == 30, "no more than the allowance gathers"


def test_others_are_not_concerned(keys: BadKeys) -> None:
    assert _guess(keys, "10.0.0.1", 100) == 30
    assert _guess(keys, "10.0.0.2", 100) == 30


def test_an_ipv6_subscriber_is_one(keys: BadKeys) -> None:
    assert _guess(keys, "2001:db8:1:2::1", 100) == 30
    assert _guess(keys, "2001:db8:1:2:ffff::9", 100) == 0
    assert _guess(keys, "2001:db8:1:3::1", 100) == 30
    assert _guess(keys, "::ffff:10.0.0.1", 100) == 30
    assert _guess(keys, "10.0.0.1", 100) == 0


def test_good_keys_cost_nothing(keys: BadKeys) -> None:
    for number in range(1000):
        keys.begin("10.0.0.1", f"good {number}")
        keys.succeeded("10.0.0.1", f"good {number}")
    assert _guess(keys, "10.0.0.1", 100) == 30


def test_a_key_that_was_good_is_looked_up_whoever_guesses_beside_it(keys: BadKeys) -> None:
    keys.begin("10.0.0.9", "good")
    keys.succeeded("10.0.0.9", "good")
    assert _guess(keys, "10.0.0.1", 100) == 30
    for _ in range(100):
        keys.begin("10.0.0.1", "good")
        keys.succeeded("10.0.0.1", "good")
    keys.begin("10.0.0.1", "good")
    keys.failed("good")  # it was revoked
    with pytest.raises(TooManyRequestsError):
        keys.begin("10.0.0.1", "good")


def test_an_admitted_request_is_looked_up_whoever_guesses_beside_it(keys: BadKeys) -> None:
    keys.begin("10.0.0.1", "mine")
    keys.succeeded("10.0.0.1", "mine")
    for number in range(10_000):  # so many that the key is no longer among the known good ones
        keys.begin("10.0.0.1", f"good {number}")
        keys.succeeded("10.0.0.1", f"good {number}")
    assert _guess(keys, "10.0.0.1", 100) == 30
    with pytest.raises(TooManyRequestsError):
        keys.begin("10.0.0.1", "mine")
    keys.begin("10.0.0.1", "mine", admitted=True)


def test_a_database_that_is_away_is_nobody_s_fault(keys: BadKeys) -> None:
    for _ in range(100):
        keys.begin("10.0.0.1", "any")
        keys.forgive("10.0.0.1")
    assert _guess(keys, "10.0.0.1", 100) == 30


def test_memory_is_bounded(keys: BadKeys) -> None:
    for number in range(25_000):
        address = f"10.{number // 65536}.{number // 256 % 256}.{number % 256}"
        keys.begin(address, "bad")
        keys.failed("bad")
        keys.begin(address, f"good {number}")
        keys.succeeded(address, f"good {number}")
    assert len(keys._full_at) == len(keys._good) == 10_000
