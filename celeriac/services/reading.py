"""Reading stored resources: single ones that must exist, and pages of lists."""

from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar
from uuid import UUID

from celeriac.db.engine import Database
from celeriac.db.paging import Rows
from celeriac.domain.errors import NotFoundError
from celeriac.domain.paging import Page, read_cursor

T = TypeVar("T")


class HasId(Protocol):
    """A stored resource."""

    @property
    def id(self) -> UUID:
        """A UUIDv7."""
        ...


R = TypeVar("R", bound=HasId)


Find = Callable[..., Rows[R] | Sequence[R]]
"""A query: `find(connection, before=id, limit=n)` returns rows in the order of the list."""


def present(found: T | None, kind: str, identifier: UUID | str) -> T:
    """Return `found`; raises NotFoundError, which names `kind` and `identifier`, if it is None."""
    if found is None:
        raise NotFoundError(kind, identifier)
    return found


def read_page(
    database: Database, kind: str, cursor: str | None, limit: int, find: Find[R]
) -> Page[R]:
    """Return the page of the list `kind` at `cursor`, read by `find`. Raises CursorInvalidError."""
    before = read_cursor(kind, cursor)
    with database.autocommit() as connection:
        found = find(connection, before=before, limit=limit + 1)
    items, more = (found.items, found.more) if isinstance(found, Rows) else (found, False)
    return Page.cut(items, limit=limit, kind=kind, key=lambda each: each.id, more=more)
