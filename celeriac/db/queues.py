"""What waits in which queue, from the partial indexes on live rows."""

from sqlalchemy import Connection, text

_WAITING = text("""
SELECT queue, count(*) FROM executions
WHERE status = 'queued' AND queued_at < now() - make_interval(secs => :older_than)
GROUP BY queue
""")


def waiting(connection: Connection, *, older_than: float) -> dict[str, int]:
    """Return per queue how many rows were marked `queued` over `older_than` seconds ago."""
    return {row[0]: row[1] for row in connection.execute(_WAITING, {"older_than": older_than})}
