"""Which fires of a schedule are due, and what is done about them."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import islice, takewhile
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celeriac.domain.errors import InvalidInputError
from celeriac.domain.schedules.model import (
    FIRES_AT_ONCE,
    MAX_COUNTED,
    Schedule,
    Timing,
    turn_of,
)
from celeriac.domain.schedules.policies import Misfire, Overlap

NOW = datetime(2026, 11, 27, 12, 0, 0, 250_000, tzinfo=UTC)
DAY = timedelta(days=1)
_ID = UUID("0199f3a2-1c5e-7d30-9a64-0b8f6b1d2c11")


def schedule(began: datetime, **fields: Any) -> Schedule:
    found = Schedule(
        id=_ID, workspace_id=_ID, owner_id=_ID, name="s", task_id=_ID, task_name="t",
        workflow_id=None, workflow_name=None, input={},
        cron="* * * * *", every_seconds=None, at=None, zone="UTC",
        overlap=Overlap.ALLOW, misfire=Misfire.LATEST, catch_up=10, window_seconds=86_400,
        jitter_seconds=0, late_seconds=300, active=True, anchor_at=began, next_fire_at=None,
        due_at=None, revision=1, created_at=began, updated_at=began,
    )  # fmt: skip
    found = replace(found, **fields)
    return replace(found, next_fire_at=next(found.fires(began)))


@pytest.mark.failure("S6")
@pytest.mark.parametrize(
    ("misfire", "made_up_for"), [(Misfire.SKIP, 0), (Misfire.LATEST, 0), (Misfire.ALL, 10)]
)
def test_s6_three_days_away_are_one_row_and_the_next_fire_is_on_time(
    misfire: Misfire, made_up_for: int
) -> None:
    turn = turn_of(schedule(NOW - 3 * DAY, misfire=misfire), NOW)
    assert turn.skipped is not None
    assert len(turn.fires) == made_up_for + 1, "that of this minute is not late"
    assert len(turn.fires) + turn.skipped.count == 3 * 24 * 60
    assert turn.next_fire_at == NOW.replace(minute=1, microsecond=0)


def test_a_year_away_is_counted_up_to_a_bound() -> None:
    turn = turn_of(schedule(NOW - 366 * DAY, misfire=Misfire.ALL), NOW)
    assert turn.skipped is not None
    assert MAX_COUNTED <= turn.skipped.count <= MAX_COUNTED + 24 * 60
    assert turn.next_fire_at == NOW.replace(minute=1, microsecond=0)


def test_many_missed_fires_happen_in_several_turns_and_each_once() -> None:
    left = schedule(NOW - DAY, misfire=Misfire.ALL, catch_up=120)
    fired: list[datetime] = []
    for _ in range(4):
        turn = turn_of(left, NOW)
        assert len(turn.fires) <= FIRES_AT_ONCE
        fired += turn.fires
        left = replace(left, next_fire_at=turn.next_fire_at)
    assert len(fired) == len(set(fired)) == 121
    assert fired == sorted(fired)
    assert left.next_fire_at == NOW.replace(minute=1, microsecond=0)


@given(
    away=st.integers(0, 200_000),
    fields=st.fixed_dictionaries(
        {
            "every_seconds": st.integers(10, 5_000),
            "jitter_seconds": st.integers(0, 3_600),
            "window_seconds": st.integers(60, 100_000),
            "misfire": st.sampled_from(Misfire),
            "catch_up": st.integers(1, 1_000),
        }
    ),
)
def test_each_fire_that_is_due_happens_is_skipped_or_follows(
    away: int, fields: dict[str, Any]
) -> None:
    found = schedule(NOW - timedelta(seconds=away), cron=None, **fields)
    turn = turn_of(found, NOW)
    gone = 0 if turn.skipped is None else turn.skipped.count
    assert turn.next_fire_at is not None
    before = takewhile(
        lambda each: turn.next_fire_at is not None and each < turn.next_fire_at,
        found.fires(found.anchor_at),
    )
    assert len(turn.fires) + gone == len(list(before))
    assert all(found.starts_at(each) <= NOW for each in turn.fires)


def test_a_fire_with_jitter_is_not_late_before_its_time() -> None:
    found = schedule(NOW - timedelta(hours=2), cron="0 * * * *", jitter_seconds=3_000)
    fire = found.next_fire_at
    assert fire is not None
    late = found.starts_at(fire) + timedelta(seconds=1)
    assert turn_of(replace(found, misfire=Misfire.SKIP), late).fires == (fire,)


def test_once_is_once() -> None:
    at = NOW - timedelta(seconds=5)
    turn = turn_of(schedule(NOW - DAY, cron=None, at=at), NOW)
    assert (turn.fires, turn.skipped, turn.next_fire_at) == ((at,), None, None)


@pytest.mark.failure("S9")
@pytest.mark.parametrize(
    ("timing", "field"),
    [
        (Timing(), "cron"),
        (Timing(cron="* * * * *", every_seconds=60), "cron"),
        (Timing(every_seconds=60, at=NOW + DAY), "every_seconds"),
        (Timing(every_seconds=9), "every_seconds"),
        (Timing(at=NOW), "at"),
        (Timing(cron="0 0 30 2 *"), "cron"),
        (Timing(cron="@daily", zone="Mars/Olympus"), "zone"),
    ],
)
def test_s9_what_never_fires_is_refused(timing: Timing, field: str) -> None:
    with pytest.raises(InvalidInputError) as raised:
        timing.check(NOW)
    assert raised.value.field == field


def test_intervals_do_not_end() -> None:
    found = schedule(NOW, cron=None, every_seconds=60)
    assert len(list(islice(found.fires(NOW), 250))) == 250
