"""Growing pauses."""

import sys

import pytest

from celeriac.kit.backoff import Backoff, grown


@pytest.mark.parametrize(
    ("doublings", "seconds"), [(0, 0.5), (1, 1.0), (3, 4.0), (4, 7.0), (sys.maxsize, 7.0)]
)
def test_a_pause_is_doubled_up_to_the_longest(doublings: int, seconds: float) -> None:
    assert grown(0.5, doublings, 7.0) == seconds


def test_the_pauses_of_a_client_grow_and_begin_anew_after_a_success() -> None:
    backoff = Backoff(1, 8)
    for most in (1, 2, 4, 8, 8):
        assert most / 2 <= backoff.failed() <= most
    assert backoff.succeeded()
    assert not backoff.succeeded()
    assert backoff.failed() <= 1
