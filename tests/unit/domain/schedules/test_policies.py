"""Late fires, overlaps, jitter, intervals and backfills."""

from datetime import UTC, datetime, timedelta
from itertools import takewhile
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celeriac.domain.schedules.cron import Cron
from celeriac.domain.schedules.policies import (
    Misfire,
    Skipped,
    catch_up,
    interval_fires,
    jittered,
)
from celeriac.domain.schedules.zones import time_zone

_START = datetime(2026, 11, 1, tzinfo=UTC)
_DAY = timedelta(days=1)
_MINUTE = timedelta(minutes=1)


@pytest.mark.failure("S6")
@pytest.mark.parametrize("misfire", list(Misfire))
def test_s6_three_days_away_make_one_row_of_skipped_fires(misfire: Misfire) -> None:
    """S6: after three days at every minute the policy holds, and the rest is summed."""
    now = _START + 3 * _DAY
    times = Cron.parse("* * * * *").fires(time_zone("UTC"), _START)
    due = list(takewhile(lambda fire: fire <= now, times))
    found = catch_up(due, now, misfire, cap=5, window=_DAY)
    # the last two are within the grace
    made = {Misfire.SKIP: 2, Misfire.LATEST: 2, Misfire.ALL: 7}[misfire]
    assert found.fires == tuple(due[-made:])
    left = due[:-made]
    assert found.skipped == Skipped(len(left), left[0], left[-1])
    assert len(due) == 4_320


@given(
    ages=st.lists(st.integers(0, 5_000), unique=True, max_size=40),
    misfire=st.sampled_from(Misfire),
    cap=st.integers(1, 10),
    window=st.integers(60, 5_000),
)
def test_every_due_fire_happens_or_is_counted(
    ages: list[int], misfire: Misfire, cap: int, window: int
) -> None:
    """None is lost, none is made up, and those that are skipped lie where the row says."""
    due = [_START - timedelta(seconds=age) for age in sorted(ages, reverse=True)]
    found = catch_up(due, _START, misfire, cap=cap, window=timedelta(seconds=window))
    left = [fire for fire in due if fire not in found.fires]
    assert list(found.fires) == sorted(set(due) - set(left))
    assert found.skipped == (Skipped(len(left), left[0], left[-1]) if left else None)
    late = [fire for fire in found.fires if _START - fire > _MINUTE]
    most = {Misfire.SKIP: 0, Misfire.LATEST: 1, Misfire.ALL: cap}[misfire]
    assert len(late) <= most
    assert all(_START - fire <= timedelta(seconds=window) for fire in late)


def test_latest_is_made_up_for_only_if_none_is_on_time() -> None:
    """The newest that was missed happens alone."""
    due = [_START - 10 * _MINUTE, _START - 5 * _MINUTE]
    assert catch_up(due, _START, Misfire.LATEST, cap=1, window=_DAY).fires == (due[1],)
    due.append(_START)
    assert catch_up(due, _START, Misfire.LATEST, cap=1, window=_DAY).fires == (_START,)


@given(seconds=st.integers(0, 86_400), jitter=st.integers(0, 3_600), name=st.uuids())
def test_jitter_is_the_same_on_every_beat(seconds: int, jitter: int, name: UUID) -> None:
    """It depends on the schedule and the fire only, and stays within its bound."""
    fire = _START + timedelta(seconds=seconds)
    late = jittered(name, fire, jitter) - fire
    assert timedelta() <= late <= timedelta(seconds=jitter)
    assert jittered(name, fire, jitter) == fire + late


@given(every=st.integers(10, 100_000), seconds=st.integers(-1_000_000, 1_000_000))
def test_intervals_keep_their_cadence(every: int, seconds: int) -> None:
    """The moments are multiples after the anchor, strictly after the given moment."""
    after = _START + timedelta(seconds=seconds)
    fires = interval_fires(_START, every, after, 3)
    assert all((fire - _START) % timedelta(seconds=every) == timedelta() for fire in fires)
    assert fires[0] > after
    first = _START + timedelta(seconds=every)
    assert fires[0] >= first
    assert fires[0] == first or fires[0] - timedelta(seconds=every) <= after
