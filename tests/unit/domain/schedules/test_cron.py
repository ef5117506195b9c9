"""Cron expressions in zones, against tables and against a scan of every minute."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from importlib.resources import files
from itertools import islice, takewhile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from celeriac.domain.errors import InvalidInputError
from celeriac.domain.schedules.cron import Cron
from celeriac.domain.schedules.zones import time_zone

_MINUTE = timedelta(minutes=1)
_ZONES = sorted(files("tzdata").joinpath("zones").read_text(encoding="utf-8").split())
"""All zones of the package whose version is pinned."""

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


_ANY_MINUTE = st.integers(0, 25 * 365 * 24 * 60).map(
    lambda minutes: datetime(2010, 1, 1, tzinfo=UTC) + minutes * _MINUTE
)


@dataclass(frozen=True)
class _Days:
    """A field of days, months or weekdays: `*`, numbers, or a word that is read here on its own."""

    numbers: frozenset[int] | None = None
    last: bool = False
    """`L`, the last day of the month."""
    nth: tuple[int, int] | None = None
    """`2#3`: the third Tuesday; `2L`, the last one, is (2, 0)."""

    @property
    def text(self) -> str:
        if self.last:
            return "L"
        if self.nth is not None:
            day, number = self.nth
            return f"{day}#{number}" if number else f"{day}L"
        return "*" if self.numbers is None else _listed(self.numbers)

    @property
    def free(self) -> bool:
        return self.text == "*"

    def has_day(self, wall: datetime) -> bool:
        if self.last:
            return (wall + timedelta(days=1)).day == 1
        return self.numbers is None or wall.day in self.numbers

    def has_weekday(self, wall: datetime) -> bool:
        weekday = wall.isoweekday() % 7
        if self.nth is None:
            return self.numbers is None or weekday in self.numbers
        day, number = self.nth
        if number == 0:
            return weekday == day and (wall + timedelta(days=7)).month != wall.month
        return weekday == day and (wall.day - 1) // 7 + 1 == number


@dataclass(frozen=True)
class _Case:
    minutes: frozenset[int] | None
    hours: frozenset[int] | None
    days: _Days
    months: frozenset[int] | None
    weekdays: _Days

    @property
    def text(self) -> str:
        minutes, hours, months = (
            "*" if each is None else _listed(each)
            for each in (self.minutes, self.hours, self.months)
        )
        return f"{minutes} {hours} {self.days.text} {months} {self.weekdays.text}"

    def matches(self, wall: datetime) -> bool:
        return (
            (self.minutes is None or wall.minute in self.minutes)
            and (self.hours is None or wall.hour in self.hours)
            and (self.months is None or wall.month in self.months)
            and self._matches_day(wall)
        )

    def _matches_day(self, wall: datetime) -> bool:
        day, weekday = self.days.has_day(wall), self.weekdays.has_weekday(wall)
        either = not self.days.free and not self.weekdays.free
        return day or weekday if either else day and weekday


def _listed(numbers: frozenset[int]) -> str:
    return ",".join(map(str, sorted(numbers)))


def _some(most: int, least: int = 0, size: int = 4) -> st.SearchStrategy[frozenset[int] | None]:
    chosen = st.frozensets(st.integers(least, most), min_size=1, max_size=size)
    return st.none() | chosen


_DAYS = st.builds(_Days, _some(28, 1, 14)) | st.just(_Days(last=True))
_WEEKDAYS = st.builds(_Days, _some(6)) | st.builds(
    _Days, nth=st.tuples(st.integers(0, 6), st.integers(0, 5))
)
_CASES = st.builds(
    _Case,
    _some(59),
    _some(23) | st.just(frozenset({0, 1, 2})),
    st.just(_Days()) | _DAYS,
    st.none() | _some(12, 1, 8),
    st.just(_Days()) | _WEEKDAYS,
)


@st.composite
def _begins(draw: st.DrawFn) -> tuple[str, datetime]:
    """Give any zone and a moment, half of them in the day before a change of its clock."""
    if draw(st.booleans()):
        zone, begin = draw(st.sampled_from(_CHANGES))
        return zone, datetime.fromisoformat(begin)
    zone, moment = draw(st.sampled_from(_ZONES)), draw(_ANY_MINUTE)
    tz = time_zone(zone)
    if draw(st.booleans()):
        for _ in range(366):
            tomorrow = moment + timedelta(days=1)
            if moment.astimezone(tz).utcoffset() != tomorrow.astimezone(tz).utcoffset():
                break
            moment = tomorrow
    return zone, moment


def _scan(case: _Case, zone: str, after: datetime, until: datetime) -> list[datetime]:
    """Return the fires by a look at every minute."""
    tz = time_zone(zone)
    fixed = case.minutes is not None and case.hours is not None
    found, moment = [], after + _MINUTE
    before = after.astimezone(tz).replace(tzinfo=None, fold=0)
    while moment <= until:
        here = moment.astimezone(tz)
        wall = here.replace(tzinfo=None, fold=0)
        fires = case.matches(wall) and not (fixed and here.fold)
        if fixed:
            skipped = before + _MINUTE
            while skipped < wall and not fires:
                fires = case.matches(skipped)
                skipped += _MINUTE
        if fires:
            found.append(moment)
        before = wall
        moment += _MINUTE
    return found


@pytest.mark.failure("S9")
@settings(max_examples=150, deadline=None)
@given(case=_CASES, begin=_begins(), shift=st.integers(0, 24 * 60))
def test_s9_fires_are_those_of_a_scan_of_every_minute(
    case: _Case, begin: tuple[str, datetime], shift: int
) -> None:
    """S9: in all zones, around changes of the clock and apart, from any minute, for two days."""
    zone, moment = begin
    after = moment + shift * _MINUTE
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
