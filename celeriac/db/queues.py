"""What waits in which queue, from the partial indexes on live rows."""

from dataclasses import dataclass

from sqlalchemy import Connection, text

_WAITING = text("""
SELECT queue, count(*), count(*) FILTER (
    WHERE queued_at < now() - make_interval(secs => :older_than))
FROM executions
WHERE status = 'queued' AND queued_at IS NOT NULL
GROUP BY queue
HAVING bool_or(queued_at < now() - make_interval(secs => :older_than))
""")


@dataclass(frozen=True, slots=True)
class Waiting:
    """How many rows of a queue are `queued`, and how many of them have been for long."""

    all: int
    old: int


def waiting(connection: Connection, *, older_than: float) -> dict[str, Waiting]:
    """Return the queues with rows that have been `queued` for over `older_than` seconds."""
    rows = connection.execute(_WAITING, {"older_than": older_than})
    return {row[0]: Waiting(row[1], row[2]) for row in rows}


_COUNTS = text("""
SELECT queue, count(*) FROM executions
WHERE status = 'pending' AND available_at <= now()
   OR status = 'queued' AND queued_at IS NOT NULL
GROUP BY queue ORDER BY queue
""")


def waiting_counts(connection: Connection) -> dict[str, int]:
    """Return how many executions are due and wait for a worker, by queue."""
    return {row[0]: int(row[1]) for row in connection.execute(_COUNTS)}
