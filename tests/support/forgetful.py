"""A database whose answers get lost on their way: after it has committed, or while it still works.

The second happens when a pooler cuts a connection: the client is told at once, and the server
finishes what it is at.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Connection, text

from celeriac.db.engine import Database
from celeriac.domain.errors import DatabaseUnavailableError

_WAITED_FOR = text(
    "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE :pid = ANY(pg_blocking_pids(pid)))"
)
_LOOK_SECONDS = 0.002


class ForgetfulDatabase(Database):
    """The database of another `Database`; loses the answers of its next units of work.

    First `late` of them are lost while the server is at them: it commits once another session waits
    for what they have locked, or after the next unit of work. Then `losses` of them are lost once
    they are committed.
    """

    def __init__(self, original: Database) -> None:
        super().__init__(original.engine.url.render_as_string(hide_password=False), connections=8)
        self.losses = 0
        self.spared = 0
        self.late = 0
        self._unfinished: list[_Unfinished] = []

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        with self._unfinished_unit() if self.late else super().transaction() as connection:
            yield connection
        self._lose()

    @contextmanager
    def autocommit(self) -> Iterator[Connection]:
        with self._unfinished_unit() if self.late else super().autocommit() as connection:
            yield connection
        self._lose()

    def settle(self) -> None:
        """Let the server finish everything that it is still at."""
        while self._unfinished:
            self._unfinished.pop().finish()

    @contextmanager
    def _unfinished_unit(self) -> Iterator[Connection]:
        self.late -= 1
        unit = _Unfinished(self)
        try:
            yield unit.connection
        except BaseException:
            unit.connection.close()
            raise
        unit.begin()
        self._unfinished.append(unit)
        raise DatabaseUnavailableError("the connection was cut")

    def _lose(self) -> None:
        self.settle()
        if self.spared > 0:
            self.spared -= 1
        elif self.losses > 0:
            self.losses -= 1
            raise DatabaseUnavailableError("the answer got lost")


class _Unfinished:
    """A transaction whose client is gone, and whose commit is still to come."""

    def __init__(self, database: Database) -> None:
        self._database = database
        connection = database.engine.connect()
        self.connection = connection.execution_options(isolation_level="READ COMMITTED")
        self._wanted = threading.Event()
        self._thread = threading.Thread(target=self._commit_when_waited_for, daemon=True)

    def begin(self) -> None:
        """Commit as soon as somebody waits."""
        self._thread.start()

    def finish(self) -> None:
        """Commit now, unless it is done already."""
        self._wanted.set()
        self._thread.join()

    def _commit_when_waited_for(self) -> None:
        pid = self.connection.execute(text("SELECT pg_backend_pid()")).scalar_one()
        with self._database.engine.connect() as looking:
            while not self._wanted.wait(_LOOK_SECONDS):
                if looking.execute(_WAITED_FOR, {"pid": pid}).scalar_one():
                    break
        self.connection.commit()
        self.connection.close()
