"""Statements are planned once for each connection, however many partitions there are.

Left to itself, the server compares the plan for the values, in which it has left out partitions,
with the one for all values. With a dozen partitions it plans anew each time, which takes many times
as long as the statement.
"""

from uuid import uuid4

from sqlalchemy import text

from celeriac.db.engine import Database
from celeriac.db.executions import leases, lifecycle, queries
from celeriac.db.executions.lifecycle import MoreClaims, NextClaim
from celeriac.domain.executions.model import Completed, ExecutionFilter, Lease, Message
from celeriac.domain.executions.states import Status
from celeriac.domain.tasks import DEFAULT_QUEUE
from tests.integration.services.test_plans import grow_old
from tests.support.core import Core

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
