"""Whether another worker should try what this one lacks the configuration for."""

from uuid import UUID

from sqlalchemy import Connection, text

_UNTRIED = text("""
WITH back AS (
    SELECT attempt FROM events
    WHERE execution_id = :id AND type = 'handed_back' AND data ->> 'code' = :code
), tried AS (
    SELECT regexp_replace(data ->> 'worker', '/[0-9]+$', '') AS hostname FROM events
    WHERE execution_id = :id AND type = 'started' AND attempt IN (SELECT attempt FROM back)
)
SELECT (SELECT count(*) FROM back) < :most AND EXISTS (
    SELECT FROM workers
    WHERE stopped_at IS NULL AND seen_at > now() - make_interval(secs => :within)
      AND consuming IS NOT FALSE AND (queues = '{}' OR :queue = ANY (queues))
      AND hostname <> :hostname AND hostname NOT IN (SELECT hostname FROM tried)
)
""")


def has_untried_worker(
    connection: Connection,
    execution_id: UUID,
    *,
    queue: str,
    hostname: str,
    code: str,
    most: int,
    within_seconds: float,
) -> bool:
    """Whether a live worker listens to `queue` that has not handed the execution back for `code`.

    False once it was handed back for that `most` times.
    """
    values = {
        "id": execution_id, "queue": queue, "hostname": hostname, "code": code, "most": most,
        "within": within_seconds,
    }  # fmt: skip
    return bool(connection.execute(_UNTRIED, values).scalar_one())
