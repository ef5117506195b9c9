"""Reading the event log of an execution."""

from uuid import UUID

from sqlalchemy import Connection, select

from celeriac.db.models import events as table
from celeriac.domain.events import Event, EventType


def after(connection: Connection, execution_id: UUID, seq: int, limit: int) -> list[Event]:
    """Return up to `limit` events numbered above `seq`, in order."""
    query = (
        select(
            table.c.execution_id,
            table.c.seq,
            table.c.type,
            table.c.at,
            table.c.attempt,
            table.c.data,
        )
        .where(table.c.execution_id == execution_id, table.c.seq > seq)
        .order_by(table.c.seq)
        .limit(limit)
    )
    return [
        Event(row.execution_id, row.seq, EventType(row.type), row.at, row.attempt, row.data)
        for row in connection.execute(query)
    ]
