"""Pages of lists in the order of time, the newest first."""

from base64 import urlsafe_b64decode, urlsafe_b64encode
from binascii import Error as NotBase64Error
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, Self, TypeVar
from uuid import UUID

from celeriac.domain.errors import CursorInvalidError

T = TypeVar("T")

_UUID_BYTES = 16


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """Items, and the cursor of the next page; None on the last one."""

    items: Sequence[T]
    next_cursor: str | None

    @classmethod
    def cut(
        cls,
        found: Sequence[T],
        *,
        limit: int,
        kind: str,
        key: Callable[[T], UUID],
        more: bool = False,
    ) -> Self:
        """Return a page of `limit` items of `found`, which was read with a limit of one more.

        `more` says that `found` is incomplete. `kind` names the list, so that the cursor is valid
        for this list only; `key` returns an item's id.
        """
        if len(found) <= limit and not more:
            return cls(found, None)
        items = found[:limit]
        return cls(items, write_cursor(kind, key(items[-1])))


def write_cursor(kind: str, last: UUID) -> str:
    """Return the cursor after the item `last` of the list `kind`; opaque to clients."""
    return urlsafe_b64encode(kind.encode() + b":" + last.bytes).rstrip(b"=").decode()


def read_cursor(kind: str, cursor: str | None) -> UUID | None:
    """Return the last item before the page; raises CursorInvalidError."""
    if cursor is None:
        return None
    try:
        name, separator, last = urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).partition(b":")
    except (NotBase64Error, ValueError):
        name, separator, last = b"", b"", b""
    if not separator or name != kind.encode() or len(last) != _UUID_BYTES:
        raise CursorInvalidError(
            "The cursor is not one of this list; take it from next_cursor of the page before, "
            "or leave it out for the first page.",
            field="cursor",
        )
    return UUID(bytes=last)
