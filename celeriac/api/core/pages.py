"""Pages of lists: their parameters, and the answer."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, TypeVar

from fastapi import Depends
from starlette.responses import Response

from celeriac import wire
from celeriac.api.core.parameters import Cursor, Limit
from celeriac.api.core.responses import page_response
from celeriac.domain.paging import Page

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class PageRequest:
    """Which page of a list is asked for."""

    cursor: str | None
    limit: int

    def answer(
        self,
        view: Callable[[T], wire.Wire],
        find: Callable[..., Page[T]],
        *arguments: object,
        **filters: object,
    ) -> Response:
        """Return the page that `find` returns for the arguments, each item as `view` shows it."""
        page = find(*arguments, **filters, cursor=self.cursor, limit=self.limit)
        return page_response(page, view)


async def _paging(cursor: Cursor = None, limit: Limit = 50) -> PageRequest:
    return PageRequest(cursor, limit)


Paging = Annotated[PageRequest, Depends(_paging)]
"""The parameters of a route that returns a page."""
