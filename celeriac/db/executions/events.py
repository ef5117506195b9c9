"""Reading the event log of an execution."""

from uuid import UUID

from sqlalchemy import Connection, func, select

from celeriac.db.paging import columns, read_bounded, reader
from celeriac.db.schema.executions import events as table
from celeriac.domain.executions.events import Event, EventType
from celeriac.domain.executions.states import WaitingFor

_EVENT = columns(Event, table)
_event = reader(Event)


def after(connection: Connection, execution_id: UUID, seq: int, limit: int) -> list[Event]:
    """Return up to `limit` events numbered above `seq`, in order.

    Fewer if they are large; an empty list means that there are no more.
    """
    query = (
        _EVENT.where(table.c.execution_id == execution_id, table.c.seq > seq)
        .order_by(table.c.seq)
        .limit(limit)
    )
    found = read_bounded(connection, query, _event, bulky=[table.c.data], key="seq", ascending=True)
    return list(found.items)


def parks_since_last_call(connection: Connection, execution_id: UUID, *, reason: WaitingFor) -> int:
    """Return how often an execution was parked for `reason` since its last model call."""
    mine = table.c.execution_id == execution_id
    last = (
        select(func.coalesce(func.max(table.c.seq), 0))
        .where(mine, table.c.type == EventType.MODEL_CALL)
        .scalar_subquery()
    )
    query = select(func.count()).where(
        mine,
        table.c.seq > last,
        table.c.type == EventType.WAITING,
        table.c.data["reason"].as_string() == reason,
    )
    return connection.execute(query).scalar_one()
