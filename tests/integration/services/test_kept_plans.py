"""Statements are planned once for each connection, however many partitions there are.

Left to itself, the server compares the plan for the values, in which it has left out partitions,
with the one for all values. With a dozen partitions it plans anew each time, which takes many times
as long as the statement.
"""

import re
from collections.abc import Callable
from uuid import UUID, uuid4

from sqlalchemy import Connection, text

from celeriac.db import retention
from celeriac.db.engine import Database
from celeriac.db.executions import leases, lifecycle, queries
from celeriac.db.executions.children import any_of
from celeriac.db.executions.lifecycle import MoreClaims, NextClaim
from celeriac.domain.executions.model import Completed, ExecutionFilter, Lease, Message
from celeriac.domain.executions.states import Status
from celeriac.domain.tasks import DEFAULT_QUEUE
from celeriac.kit.ids import uuid7
from tests.integration.services.test_plans import grow_old, live_worker
from tests.support.core import Core
from tests.support.rows_read import rows_read

WEEKS = 12
TIMES = 12
"""The server plans anew at least five times if it may choose."""
_PLANNED = text("""
SELECT statement, generic_plans, custom_plans FROM pg_prepared_statements
WHERE statement LIKE '%executions%'
""")


def test_statements_keep_their_plans(core: Core) -> None:
    core.pending_many([{}] * 200)
    grow_old(core.database, WEEKS)
    url = core.database.engine.url.render_as_string(hide_password=False)
    database = Database(url, connections=1)
    try:
        for _ in range(TIMES):
            work(core, database)
        with database.autocommit() as connection:
            planned = connection.execute(_PLANNED).all()
    finally:
        database.close()
    assert len(planned) >= 8, planned
    assert {row.statement: row.custom_plans for row in planned if row.custom_plans} == {}
    assert min(row.generic_plans for row in planned) >= TIMES - 1


def work(core: Core, database: Database) -> None:
    """Do what is done most often, with one connection."""
    worker = core.worker()
    lease = Lease(uuid4(), 1, uuid4())
    more = MoreClaims(worker, [uuid4()], [uuid4()])
    wanted = ExecutionFilter(workspace_id=core.actor.workspace_id, statuses=(Status.FAILED,))
    with database.autocommit() as connection:
        lifecycle.claim(connection, Message(lease.execution_id, 0), token=uuid4(), worker=worker)
        for following in (None, NextClaim(DEFAULT_QUEUE, worker, uuid4())):
            lifecycle.finish(connection, lease, Completed(None), following, counted=False)
        ends = [lifecycle.end_values(lease, Completed(None))]
        lifecycle.finish_group(connection, ends, DEFAULT_QUEUE, more, counted=False)
        lifecycle.claim_more(connection, DEFAULT_QUEUE, more)
        leases.store_batch(connection, [leases.PendingWrites(lease, progress=(1.0, None, ""))])
        lifecycle.queue_due(connection, {DEFAULT_QUEUE: 0}, other_window=0)
        queries.get(connection, lease.execution_id, workspace=None)
        queries.find(connection, wanted, before=None, limit=50)


def lease() -> Lease:
    """Return a lease of now, which nobody has."""
    return Lease(uuid7(), 1, uuid4())


def end_several(connection: Connection) -> object:
    ends = [lifecycle.end_values(lease(), Completed(None)) for _ in range(3)]
    return lifecycle.finish_group(connection, ends, counted=False)


def note_several(connection: Connection) -> object:
    return leases.store_batch(
        connection, [leases.PendingWrites(lease(), progress=(1.0, None, "")) for _ in range(3)]
    )


def ids() -> list[UUID]:
    return [uuid7() for _ in range(3)]


BY_IDS: dict[str, Callable[[Connection], object]] = {
    "end several": end_several,
    "store the notes of several": note_several,
    "hold": lambda c: lifecycle.hold(c, ids()),
    "take back what was not sent": lambda c: lifecycle.unqueue(
        c, {each: str(each) for each in ids()}, delay=1.0, reason="test"
    ),
    "read the numbers of events": lambda c: queries.positions(c, ids()),
    "look for parents": lambda c: any_of(c, ids()),
    "forget what ended": lambda c: retention.delete_executions(c, ids()),
    "read one": lambda c: queries.get(c, uuid7(), workspace=None),
    "claim": lambda c: lifecycle.claim(
        c, Message(uuid7(), 0), token=uuid4(), worker=live_worker(c)
    ),
}
_PARTITION = r'"Relation Name": "execution\w*_(\d{8})"'


def test_what_names_its_executions_opens_no_other_partitions(core: Core) -> None:
    grow_old(core.database, WEEKS)
    opened = {
        name: [set(re.findall(_PARTITION, plan)) for plan, _ in rows_read(core.database, work)]
        for name, work in BY_IDS.items()
    }
    assert {name for name, plans in opened.items() if max(map(len, plans)) > 1} == set()
    assert all(any(plans) for plans in opened.values()), "partitions were not seen"
