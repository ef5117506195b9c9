"""Opens connections to PostgreSQL that wait a bounded time for an answer.

The server's own limits end a slow statement, and the kernel notices a host that disappears. A
server that is frozen does neither: its kernel still acknowledges what it is sent. See
docs/adr/0078-bounded-waits-for-servers.md.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg.abc import RV, PQGen
from psycopg.pq import TransactionStatus

CONNECT_SECONDS = 5
"""How long each server of an address may take to accept a connection."""

_MARGIN_SECONDS = 5.0
_INTERVAL_SECONDS = 0.1


def answer_seconds(statement_seconds: float) -> float | None:
    """Return how long to wait for the answer to a statement; None for one without a limit.

    Longer than the server's own limit, so that a server that lives ends the statement itself and
    says so. At most twice as long, so that short limits stay short.
    """
    if not statement_seconds:
        return None
    return statement_seconds + min(_MARGIN_SECONDS, statement_seconds)


class BoundedConnection(psycopg.Connection[Any]):
    """A connection that is closed if an answer does not come in time."""

    answer_seconds: float | None = None
    on_late: Callable[[], None] | None = None
    """Called when an answer has not come in time."""

    def wait(
        self,
        gen: PQGen[RV],
        interval: float = _INTERVAL_SECONDS,
        timeout: float | None = None,
    ) -> RV:
        """Wait as psycopg does, for at most `answer_seconds`.

        Raises psycopg.OperationalError when the time is up. Whether the statement was executed, or
        will be, is then not known.
        """
        try:
            return super().wait(gen, interval, timeout or self.answer_seconds)
        except psycopg.OperationalError as error:
            if self.pgconn.transaction_status != TransactionStatus.ACTIVE:
                raise
            # nobody reads the answer any more, so nothing else can be asked on this connection
            self.pgconn.finish()
            if self.on_late is not None:
                self.on_late()
            raise psycopg.OperationalError(
                f"it has not answered within {self.answer_seconds:g} s"
            ) from error


class Connecting:
    """Opens the connections of a pool. Safe to share between threads.

    A hundred requests that wait for ten connections must not take turns in waiting for a server
    that does not answer. So when an answer has not come, one caller tries a connection, and the
    others wait for what it finds. While the server accepts none, one at a time tries, and the
    others are refused at once.
    """

    def __init__(self, answer_seconds: float | None) -> None:
        self._answer_seconds = answer_seconds
        self._changed = threading.Condition()
        self._doubtful = False
        """Whether an answer has not come, and no connection was opened since."""
        self._late: str | None = None
        """Why the last connection was given up after CONNECT_SECONDS; None if it was not."""
        self._trying = False

    def __call__(
        self, _dialect: object, _record: object, args: tuple[Any, ...], options: dict[str, Any]
    ) -> BoundedConnection:
        """Return a new connection; for SQLAlchemy's event `do_connect`.

        Raises psycopg.OperationalError.
        """
        with self._turn():
            try:
                connection = BoundedConnection.connect(*args, **options)
            except psycopg.errors.ConnectionTimeout:
                self._late = f"it has accepted no connection within {CONNECT_SECONDS} s"
                raise
            except psycopg.Error:
                self._late, self._doubtful = None, False
                raise
            self._late, self._doubtful = None, False
        connection.answer_seconds = self._answer_seconds
        connection.on_late = self._doubt
        return connection

    def _doubt(self) -> None:
        self._doubtful = True

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """Wait until the caller may try; raise psycopg.OperationalError if it may not."""
        with self._changed:
            if self._trying:
                self._changed.wait_for(lambda: self._late is not None or not self._trying)
                if self._late is not None:
                    raise psycopg.OperationalError(self._late)
            alone = self._late is not None or self._doubtful
            self._trying = self._trying or alone
        try:
            yield
        finally:
            if alone:
                with self._changed:
                    self._trying = False
                    self._changed.notify_all()
