"""Cron expressions in zones, against tables and against a scan of every minute."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice, takewhile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from celeriac.domain.errors import InvalidInputError
from celeriac.domain.schedules.cron import Cron
from celeriac.domain.schedules.zones import time_zone

_MINUTE = timedelta(minutes=1)

# zone, a moment in the days around a change of its clock
_CHANGES = [
    ("America/New_York", "2026-03-07T12:00Z"),
    ("America/New_York", "2026-10-31T12:00Z"),
    ("Europe/Berlin", "2026-03-28T12:00Z"),
    ("Europe/Berlin", "2026-10-24T12:00Z"),
    ("Australia/Lord_Howe", "2026-04-04T03:00Z"),
    ("Australia/Lord_Howe", "2026-10-03T03:00Z"),
    ("America/Santiago", "2026-04-04T12:00Z"),
    ("America/Santiago", "2026-09-05T12:00Z"),
    ("Africa/Casablanca", "2026-02-14T12:00Z"),
    ("Africa/Casablanca", "2026-03-21T12:00Z"),
    ("Pacific/Apia", "2011-12-29T12:00Z"),
    ("Asia/Kathmandu", "1985-12-31T12:00Z"),
    ("UTC", "2028-02-28T12:00Z"),
]


def _fires(text: str, zone: str, after: str, count: int) -> list[str]:
    start = datetime.fromisoformat(after)
    found = islice(Cron.parse(text).fires(time_zone(zone), start), count)
    return [f"{fire:%Y-%m-%dT%H:%M:%SZ}" for fire in found]


@pytest.mark.failure("S1")
@pytest.mark.parametrize(
    ("text", "zone", "after", "expected"),
    [
        # spring: 02:00 becomes 03:00 at 07:00Z
        (
            "30 2 * * *",
            "America/New_York",
            "2026-03-08T00:00Z",
            ["2026-03-08T07:00:00Z", "2026-03-09T06:30:00Z"],
        ),
        (
            "0 30 2 * * *",
            "America/New_York",
            "2026-03-08T00:00Z",
            ["2026-03-08T07:00:00Z", "2026-03-09T06:30:00Z"],
        ),
        (
            "30 * * * *",
            "America/New_York",
            "2026-03-08T06:00Z",
            ["2026-03-08T06:30:00Z", "2026-03-08T07:30:00Z"],
        ),
        # autumn: 02:00 becomes 01:00 at 06:00Z
        (
            "30 1 * * *",
            "America/New_York",
            "2026-11-01T00:00Z",
            ["2026-11-01T05:30:00Z", "2026-11-02T06:30:00Z"],
        ),
        (
            "0 30 1 * * *",
            "America/New_York",
            "2026-11-01T00:00Z",
            ["2026-11-01T05:30:00Z", "2026-11-02T06:30:00Z"],
        ),
        ("30 1 * * *", "America/New_York", "2026-11-01T06:15Z", ["2026-11-02T06:30:00Z"]),
        (
            "30 * * * *",
            "America/New_York",
            "2026-11-01T05:00Z",
            ["2026-11-01T05:30:00Z", "2026-11-01T06:30:00Z"],
        ),
        # half an hour; the library misses 02:00 and 02:15
        (
            "*/15 2 * * *",
            "Australia/Lord_Howe",
            "2026-04-04T15:00Z",
            ["2026-04-04T15:30:00Z", "2026-04-04T15:45:00Z"],
        ),
        # midnight is skipped
        (
            "0 0 * * *",
            "America/Santiago",
            "2026-09-05T12:00Z",
            ["2026-09-06T04:00:00Z", "2026-09-07T03:00:00Z"],
        ),
        # 30 December 2011 is skipped
        (
            "0 9 * * *",
            "Pacific/Apia",
            "2011-12-29T20:00Z",
            ["2011-12-30T10:00:00Z", "2011-12-30T19:00:00Z"],
        ),
        ("@hourly", "UTC", "2026-01-01T00:00:00.5Z", ["2026-01-01T01:00:00Z"]),
        ("0 9 L * *", "UTC", "2028-02-01T00:00Z", ["2028-02-29T09:00:00Z", "2028-03-31T09:00:00Z"]),
        ("0 9 * * MON#1", "UTC", "2026-01-06T00:00Z", ["2026-02-02T09:00:00Z"]),
        ("0 9 * * 5L", "UTC", "2026-01-06T00:00Z", ["2026-01-30T09:00:00Z"]),
        (
            "*/30 0 0 1 1 *",
            "UTC",
            "2026-01-06T00:00Z",
            ["2027-01-01T00:00:00Z", "2027-01-01T00:00:30Z"],
        ),
    ],
)
def test_s1_fires_around_changes_of_the_clock(
    text: str, zone: str, after: str, expected: list[str]
) -> None:
    """S1: each fire is at the time that the rules say, none twice and none missing."""
    assert _fires(text, zone, after, len(expected)) == expected


@dataclass(frozen=True)
class _Case:
    minutes: frozenset[int] | None
    hours: frozenset[int] | None
    weekdays: frozenset[int] | None

    @property
    def text(self) -> str:
        fields = (self.minutes, self.hours, None, None, self.weekdays)
        return " ".join("*" if f is None else ",".join(map(str, sorted(f))) for f in fields)

    def matches(self, wall: datetime) -> bool:
        return (
            (self.minutes is None or wall.minute in self.minutes)
            and (self.hours is None or wall.hour in self.hours)
            and (self.weekdays is None or wall.isoweekday() % 7 in self.weekdays)
        )


def _some(most: int) -> st.SearchStrategy[frozenset[int] | None]:
    chosen = st.frozensets(st.integers(0, most), min_size=1, max_size=4)
    return st.none() | chosen


_CASES = st.builds(_Case, _some(59), _some(23) | st.just(frozenset({0, 1, 2})), _some(6))


def _scan(case: _Case, zone: str, after: datetime, until: datetime) -> list[datetime]:
    """Return the fires by a look at every minute."""
    tz = time_zone(zone)
    fixed = case.minutes is not None and case.hours is not None
    found, moment = [], after + _MINUTE
    while moment <= until:
        here = moment.astimezone(tz)
        wall = here.replace(tzinfo=None, fold=0)
        before = (moment - _MINUTE).astimezone(tz).replace(tzinfo=None, fold=0)
        fires = case.matches(wall) and not (fixed and here.fold)
        if fixed:
            skipped = before + _MINUTE
            while skipped < wall and not fires:
                fires = case.matches(skipped)
                skipped += _MINUTE
        if fires:
            found.append(moment)
        moment += _MINUTE
    return found


@pytest.mark.failure("S9")
@settings(max_examples=150, deadline=None)
@given(case=_CASES, change=st.sampled_from(_CHANGES), shift=st.integers(0, 24 * 60))
def test_s9_fires_are_those_of_a_scan_of_every_minute(
    case: _Case, change: tuple[str, str], shift: int
) -> None:
    """S9: around changes of the clock in many zones, from any minute, for two days."""
    zone, begin = change
    after = datetime.fromisoformat(begin) + shift * _MINUTE
    until = after + timedelta(days=2)
    fires = takewhile(
        lambda fire: fire <= until, Cron.parse(case.text).fires(time_zone(zone), after)
    )
    assert list(fires) == _scan(case, zone, after, until)


@pytest.mark.failure("S9")
@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "has 0 fields"),
        ("* * * *", "has 4 fields"),
        ("@reboot", "unknown nickname"),
        ("0 0 30 2 *", "never"),
        ("60 * * * *", "minute"),
        ("0 0 * * FRI-MON", "day-of-week"),
        ("*/0 * * * *", "minute"),
        ("0 ٣ * * *", "hour"),
        ("* * * * * *", "every 10 seconds"),
        ("0,55 * * * * *", "every 10 seconds"),
        ("0," * 101 + "0 * * * *", "200 characters"),
    ],
)
def test_s9_wrong_expressions_are_refused_with_the_field(text: str, words: str) -> None:
    """S9: an impossible expression is refused; it never becomes another one."""
    with pytest.raises(InvalidInputError, match=words) as raised:
        Cron.parse(text)
    assert raised.value.field == "cron"


@pytest.mark.parametrize("name", ["", "Berlin", "../../etc/passwd", "europe/berlin", "x" * 500])
def test_unknown_zones_are_refused(name: str) -> None:
    """A name outside the list is never looked for in files."""
    with pytest.raises(InvalidInputError, match="no time zone") as raised:
        time_zone(name)
    assert raised.value.field == "zone"


def test_zones_are_those_of_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """The zones of the host are not used."""
    monkeypatch.setattr("zoneinfo.TZPATH", ("/nowhere",))
    zone = time_zone("Europe/Berlin")
    assert datetime(2026, 7, 1, tzinfo=UTC).astimezone(zone).hour == 2


@pytest.mark.parametrize("text", ["0 * * * *", "30 1 * * *"])
def test_fires_end_with_the_calendar(text: str) -> None:
    """A far time gives the fires that are left, and no error."""
    after = datetime(9999, 12, 30, 20, tzinfo=UTC)
    fires = list(Cron.parse(text).fires(time_zone("America/New_York"), after))
    assert fires
    assert fires[-1].year == after.year
