"""The statements that a piece of work sends, for tests that count them."""

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import event

from celeriac.db.engine import Database


@contextmanager
def sent(database: Database) -> Iterator[list[str]]:
    """Give the block a list of the statements that are sent meanwhile.

    Without changes of the mode of plans, which depend on what the connection was used for before,
    and looks at who waits in a queue, which depend on the time.
    """
    statements: list[str] = []

    def executed(_c: object, _k: object, statement: str, *_: object) -> None:
        if (
            not statement.startswith("SET plan_cache_mode")
            and "FROM top) AS priority" not in statement
        ):
            statements.append(statement)

    event.listen(database.engine, "before_cursor_execute", executed)
    try:
        yield statements
    finally:
        event.remove(database.engine, "before_cursor_execute", executed)
