"""Points in time and days, as requests write them."""

import re
from datetime import date
from typing import Annotated

from pydantic import AfterValidator, AwareDatetime, BeforeValidator, Field

_RFC_3339 = re.compile(
    r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?(Z|[+-]\d\d:\d\d)", re.ASCII | re.IGNORECASE
)
_DAY = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
_FIRST_YEAR, _LAST_YEAR = 1970, 2999


def _written(value: object) -> object:
    # pydantic would take a number for seconds since 1970, and a date for its midnight
    if not isinstance(value, str) or not _RFC_3339.fullmatch(value):
        raise ValueError("must be a time as in 2030-01-31T12:00:00Z, with its zone")
    return value


def _in_our_time(value: AwareDatetime) -> AwareDatetime:
    if not _FIRST_YEAR <= value.year <= _LAST_YEAR:
        raise ValueError(f"must lie between the years {_FIRST_YEAR} and {_LAST_YEAR}")
    return value


def _day_written(value: object) -> object:
    # pydantic would take a number for seconds since 1970
    if not isinstance(value, str) or not _DAY.fullmatch(value):
        raise ValueError("must be a day as in 2030-01-31")
    return value


Day = Annotated[date, Field(strict=False), BeforeValidator(_day_written)]
"""A day, `2030-01-31`."""

Moment = Annotated[
    AwareDatetime,
    Field(strict=False),
    BeforeValidator(_written),
    AfterValidator(_in_our_time),
]
"""A time in RFC 3339 with its zone, between 1970 and 2999."""
