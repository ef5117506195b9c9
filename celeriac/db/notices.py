"""Which open questions people are still to be told of: the rows are their own outbox."""

from collections.abc import Sequence
from uuid import UUID

from sqlalchemy import Connection, text

from celeriac.db import approvals
from celeriac.domain.approval import Approval

_CLAIM = text("""
UPDATE approvals a
SET notify_count = a.notify_count + 1,
    notify_at = CASE WHEN a.notify_count + 1 < :most
                     THEN now() + make_interval(secs => least(:first * power(2, a.notify_count),
                                                              3600) * (0.75 + random() / 2)) END
FROM (
    SELECT id FROM approvals
    WHERE status = 'open' AND notified_at IS NULL AND notify_at <= now() AND expires_at > now()
    ORDER BY notify_at
    LIMIT :limit
    FOR UPDATE SKIP LOCKED
) AS due
WHERE a.id = due.id
RETURNING a.id
""")


def claim(connection: Connection, *, limit: int, first_pause: float, most: int) -> list[Approval]:
    """Take questions that are to be told of now, each for one try; return them.

    The next try is due after `first_pause` seconds, doubled with each, and there are at most
    `most`. Two statements.
    """
    parameters = {"limit": limit, "first": first_pause, "most": most}
    ids = list(connection.execute(_CLAIM, parameters).scalars())
    found = (approvals.get(connection, approval_id, owner=None) for approval_id in ids)
    return [approval for approval in found if approval is not None]


_DONE = text("""
UPDATE approvals SET notified_at = now(), notify_at = NULL
WHERE id = ANY(CAST(:ids AS uuid[])) AND notified_at IS NULL
""")


def done(connection: Connection, approval_ids: Sequence[UUID]) -> None:
    """Write that people were told of these questions."""
    connection.execute(_DONE, {"ids": list(approval_ids)})


_GIVEN_UP = text("""
SELECT id FROM approvals
WHERE id = ANY(CAST(:ids AS uuid[])) AND notified_at IS NULL AND notify_at IS NULL
""")


def given_up(connection: Connection, approval_ids: Sequence[UUID]) -> list[UUID]:
    """Return those for which no further try follows."""
    return list(connection.execute(_GIVEN_UP, {"ids": list(approval_ids)}).scalars())
