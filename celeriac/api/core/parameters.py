"""Parameters and dependencies that routes share."""

import re
from datetime import date
from typing import Annotated, cast
from uuid import UUID

from fastapi import Depends, Header, Path, Query, Request
from pydantic import AfterValidator, AwareDatetime, BeforeValidator, Field

from celeriac.domain.base import Label, Word
from celeriac.wiring.api import ApiServices
from celeriac.wiring.core import CoreServices

MAX_PAGE = 500


async def _container(request: Request) -> CoreServices:
    return cast(CoreServices, request.app.state.container)


async def _services(request: Request) -> ApiServices:
    return cast(ApiServices, request.app.state.services)


Shared = Annotated[CoreServices, Depends(_container)]
Services = Annotated[ApiServices, Depends(_services)]

Cursor = Annotated[
    Label | None, Query(max_length=200, description="`next_cursor` of the page before.")
]
Limit = Annotated[int, Query(ge=1, le=MAX_PAGE, description="Items on a page.")]

Reference = Word
"""An id, or the name of one of the caller's own."""

IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=255,
        pattern=r"^[\x21-\x7e]+$",
        description="Any string of your own. The same request with the same key is done once and "
        "gets the same answer; another request with the same key is refused.",
    ),
]

ExecutionPath = Annotated[UUID, Path(description="The execution's id.")]

_FIRST_YEAR, _LAST_YEAR = 1970, 2999


def _written(pattern: str, kind: str) -> BeforeValidator:
    """Refuse what pydantic also accepts: numbers as seconds since 1970, a date as its midnight."""

    def check(value: object) -> object:
        if not isinstance(value, str) or not re.fullmatch(pattern, value, re.ASCII | re.IGNORECASE):
            raise ValueError(f"must be {kind}")
        return value

    return BeforeValidator(check)


def _in_range(value: AwareDatetime) -> AwareDatetime:
    if not _FIRST_YEAR <= value.year <= _LAST_YEAR:
        raise ValueError(f"must lie between the years {_FIRST_YEAR} and {_LAST_YEAR}")
    return value


Day = Annotated[date, Field(strict=False), _written(r"\d{4}-\d\d-\d\d", "a day as in 2030-01-31")]
"""A day, `2030-01-31`."""

Timestamp = Annotated[
    AwareDatetime,
    Field(strict=False),
    _written(
        r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?(Z|[+-]\d\d:\d\d)",
        "a time as in 2030-01-31T12:00:00Z, with its zone",
    ),
    AfterValidator(_in_range),
]
"""A time in RFC 3339 with its zone, between 1970 and 2999."""
