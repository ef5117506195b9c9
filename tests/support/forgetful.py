"""A database whose answers get lost on their way, once it has done what it was asked."""

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Connection

from celeriac.db.engine import Database
from celeriac.domain.errors import DatabaseUnavailableError


class ForgetfulDatabase(Database):
    """The database of another `Database`; loses the answers of its next `losses` units of work."""

    def __init__(self, original: Database) -> None:
        super().__init__(original.engine.url.render_as_string(hide_password=False), connections=2)
        self.losses = 0

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        with super().transaction() as connection:
            yield connection
        self._lose()

    @contextmanager
    def statement(self) -> Iterator[Connection]:
        with super().statement() as connection:
            yield connection
        self._lose()

    def _lose(self) -> None:
        if self.losses > 0:
            self.losses -= 1
            raise DatabaseUnavailableError("the answer got lost")
