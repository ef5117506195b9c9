"""Histograms of durations add up, and their percentiles are off by no more than a bucket."""

import math
from collections.abc import Sequence
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celeriac.domain.rollups import (
    BUCKETS,
    THRESHOLDS,
    Grain,
    Histogram,
    Sums,
    bucket_of,
    grain_of,
    upper_bound,
)

WORST = (2**0.25 - 1) / (2**0.25 + 1)
LONGEST_MS = THRESHOLDS[-1] - 1
durations = st.lists(st.integers(1, LONGEST_MS), max_size=60)


@pytest.mark.requirement("B12")
@given(durations.filter(bool), st.floats(0, 1))
def test_a_percentile_is_off_by_half_a_bucket_at_most(found: Sequence[int], share: float) -> None:
    exact = sorted(found)[max(1, math.ceil(share * len(found))) - 1] / 1_000
    estimate = Histogram.of(found).quantile(share)
    assert estimate is not None
    assert WORST < 0.087
    assert abs(estimate - exact) <= exact * WORST * (1 + 1e-9)


@given(durations, durations, durations)
def test_merging_is_addition(a: Sequence[int], b: Sequence[int], c: Sequence[int]) -> None:
    one, two, three = map(Histogram.of, (a, b, c))
    merged = Histogram.merged
    assert merged([one, two]) == Histogram.of([*a, *b]) == merged([two, one])
    assert merged([merged([one, two]), three]) == merged([one, merged([two, three])])
    assert merged([one, Histogram()]) == one
    assert merged([one, two]).count == len(a) + len(b)


@given(st.integers(0, 2 * LONGEST_MS))
def test_a_duration_is_within_its_bucket(milliseconds: int) -> None:
    bucket = bucket_of(milliseconds)
    assert 0 <= bucket < BUCKETS
    assert milliseconds / 1_000 <= upper_bound(bucket)
    assert bucket == 0 or milliseconds / 1_000 > upper_bound(bucket - 1)


def test_the_buckets_reach_from_a_millisecond_to_days() -> None:
    assert upper_bound(0) == 0.001
    assert 2 * 86_400 < upper_bound(BUCKETS - 2) < 3 * 86_400
    assert upper_bound(BUCKETS - 1) == math.inf
    assert Histogram.of([10**12]).counts == {BUCKETS - 1: 1}


def test_without_durations_there_are_no_percentiles_and_rates() -> None:
    nothing = Sums()
    assert nothing.run.quantile(0.5) is None
    assert (nothing.success_rate, nothing.average_run_seconds) == (None, None)
    assert Sums(cancelled=3).success_rate is None


def test_sums_add_up() -> None:
    one = Sums(completed=3, failed=1, cost=Decimal("0.5"), run_seconds=2, run=Histogram.of([5] * 4))
    two = Sums(failed=2, cancelled=1, run_seconds=1, run=Histogram.of([5, 9]))
    both = Sums.merged([one, two])
    assert (both.ended, both.completed, both.failed, both.cancelled) == (7, 3, 3, 1)
    assert both.success_rate == 0.5
    assert both.average_run_seconds == 0.5
    assert both.run == Histogram.of([5, 5, 5, 5, 5, 9])


def test_a_window_is_read_from_few_rows() -> None:
    assert grain_of(3_600) is Grain.MINUTE
    assert grain_of(3_601) is Grain.HOUR
    assert grain_of(3 * 86_400) is Grain.DAY
