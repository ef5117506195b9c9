"""What routes ask for: the parts, who is asking, pages, idempotency keys.

Dependencies that don't wait are coroutines: FastAPI sends plain functions through its thread pool.
"""

from typing import Annotated, cast

from fastapi import Depends, Header, Query, Request

from celeriac.api.auth import Admin, Caller, Operator
from celeriac.wiring import Container, Desk

__all__ = [
    "MAX_PAGE",
    "Admin",
    "AtDesk",
    "Caller",
    "Cursor",
    "IdempotencyKey",
    "Limit",
    "Operator",
    "Shared",
]

MAX_PAGE = 500


async def _container(request: Request) -> Container:
    return cast(Container, request.app.state.container)


async def _desk(request: Request) -> Desk:
    return cast(Desk, request.app.state.desk)


Shared = Annotated[Container, Depends(_container)]
AtDesk = Annotated[Desk, Depends(_desk)]


Cursor = Annotated[
    str | None, Query(max_length=200, description="`next_cursor` of the page before.")
]
Limit = Annotated[int, Query(ge=1, le=MAX_PAGE, description="Items on a page.")]

IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=255,
        pattern=r"^[\x21-\x7e]+$",
        description="Any string of your own. The same key with the same request does the work "
        "once and answers the same; with another request it is refused.",
    ),
]
