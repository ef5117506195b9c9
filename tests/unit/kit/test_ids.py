"""UUIDs of version 7."""

import threading
from datetime import UTC, datetime, timedelta
from uuid import RFC_4122, UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celeriac.kit.ids import parse_uuid, uuid7, uuid7_at


def test_they_are_of_version_7_and_bear_their_time() -> None:
    before = datetime.now(UTC)
    made = uuid7()
    assert (made.version, made.variant) == (7, RFC_4122)
    milliseconds = made.int >> 80
    assert abs(milliseconds / 1000 - before.timestamp()) < 60


def test_each_is_greater_than_the_one_before_however_fast_they_come() -> None:
    made = [uuid7() for _ in range(20_000)]
    assert made == sorted(made)
    assert len(set(made)) == len(made)


def test_threads_share_one_sequence() -> None:
    made: list[UUID] = []

    def make() -> None:
        made.extend(uuid7() for _ in range(2_000))

    threads = [threading.Thread(target=make) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(made)) == 8_000
    assert len({each.int >> 64 for each in made}) == 8_000, "a time and counter came twice"


@given(st.datetimes(datetime(1971, 1, 1), datetime(2200, 1, 1), timezones=st.just(UTC)))  # noqa: DTZ001 - Hypothesis wants bounds without a zone
def test_the_smallest_of_a_moment_bounds_it(moment: datetime) -> None:
    smallest = uuid7_at(moment)
    assert smallest.version == 7
    assert smallest <= uuid7_at(moment + timedelta(milliseconds=1))
    assert uuid7_at(moment - timedelta(seconds=1)) < smallest


def test_now_lies_between_its_bounds() -> None:
    hour = timedelta(hours=1)
    now = datetime.now(UTC)
    assert uuid7_at(now - hour) < uuid7() < uuid7_at(now + hour)


@pytest.mark.parametrize("text", ["", "x", "1234", "01a20137-16d9-7000-959f-9c6e1279d79", "🌱"])
def test_what_is_no_uuid_is_none(text: str) -> None:
    assert parse_uuid(text) is None


@given(st.uuids())
def test_a_uuid_is_read_as_it_is_written(value: UUID) -> None:
    assert parse_uuid(str(value)) == value
