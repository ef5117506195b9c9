"""What the services ask of an object store."""

from collections.abc import Iterator, Sequence
from typing import Protocol


class ObjectStore(Protocol):
    """Bytes by key. Thread-safe; its methods block.

    Each raises ObjectStoreError while the store can't be reached, or refuses what it is asked.
    """

    @property
    def address(self) -> str:
        """The address, for people; without credentials."""
        ...

    def put(self, key: str, body: bytes | Iterator[bytes]) -> None:
        """Store an object, replacing what was there. It is there whole, or not at all.

        An exception of the iterator is raised, and nothing is stored.
        """
        ...

    def read(self, key: str, start: int = 0, end: int | None = None) -> Iterator[bytes]:
        """Yield the bytes of an object from `start` up to `end`; the request is made at once.

        Raises ObjectMissingError.
        """
        ...

    def delete(self, keys: Sequence[str]) -> None:
        """Delete objects. A missing one is no error."""
        ...

    def link(self, key: str, seconds: float) -> str | None:
        """Return an address from which anybody can download an object for so long.

        None if the store has no such links.
        """
        ...
