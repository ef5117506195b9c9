"""What is worth a look at an execution that has not failed: flags of its end, and silence."""

from collections.abc import Sequence

import pytest
from sqlalchemy import text

from celeriac.db import approvals, metrics, rollups, sitrep
from celeriac.db.executions import leases, lifecycle, queries
from celeriac.db.executions.leases import PendingWrites
from celeriac.domain.executions.events import EventType, NewEvent
from celeriac.domain.executions.flags import SILENT_SECONDS, Flag
from celeriac.domain.executions.model import Claim, Completed, ExecutionFilter, Failed, Failure
from celeriac.domain.usage import ModelCall
from celeriac.kit.json_types import JsonValue
from celeriac.services.operations.rollups import Rollups
from tests.support.core import ASKING, Core

pytestmark = pytest.mark.requirement("A15")


def _found(core: Core, flag: Flag) -> list[object]:
    wanted = ExecutionFilter(workspace_id=core.actor.workspace_id, flag=flag)
    with core.database.autocommit() as connection:
        return [row.id for row in queries.find(connection, wanted, before=None, limit=50).items]


def _record(core: Core, claim: Claim, batch: PendingWrites) -> None:
    with core.database.autocommit() as connection:
        assert leases.store_batch(connection, [batch])


def _step(core: Core, claim: Claim) -> None:
    with core.database.autocommit() as connection:
        connection.execute(
            text("INSERT INTO steps (execution_id, number, name, kind, status, attempt,"
                 " retry_count) VALUES (:id, 1, 'judge', 'step', 'completed', 1, 0)"),
            {"id": claim.lease.execution_id},
        )  # fmt: skip


@pytest.mark.parametrize("together", [False, True], ids=["alone", "together"])
def test_an_end_without_work_and_result_is_flagged(core: Core, *, together: bool) -> None:
    nothing: Sequence[JsonValue] = (None, "", " \n", [], {})
    something: Sequence[JsonValue] = (0, False, "no", [None], {"n": None})
    ends: list[tuple[Claim, Completed | Failed]] = [
        (core.running(), Completed(value)) for value in (*nothing, *something)
    ]
    wanted = {claim.lease.execution_id for claim, _ in ends[: len(nothing)]}
    failed, called, noted, stepped = (core.running() for _ in range(4))
    ends += [(claim, Completed(None)) for claim in (called, noted, stepped)]
    ends.append((failed, Failed(Failure("agent_failed", "no", {"type": "LookupError"}))))
    _record(core, called, PendingWrites(called.lease, calls=[ModelCall("p", "m", 1, 1)]))
    _record(core, noted, PendingWrites(noted.lease, [NewEvent(EventType.MESSAGE)]))
    _step(core, stepped)
    if together:
        completed = [lifecycle.end_values(claim.lease, end) for claim, end in ends[:-1]]
        with core.database.autocommit() as connection:
            stored = lifecycle.finish_group(connection, completed)
        assert len(stored.status) == len(completed)
    else:
        for claim, end in ends:
            core.end(claim, end)
    assert set(_found(core, Flag.NO_OP)) == wanted
    assert all(core.get(each).flags == (Flag.NO_OP,) for each in wanted)
    assert core.get(called.lease.execution_id).flags == ()
    with core.database.autocommit() as connection:
        rollups.fold(connection, limit=100)
    assert Rollups(core.database).totals(core.actor).no_ops == len(wanted)


def test_a_running_execution_without_events_is_silent(core: Core) -> None:
    quiet, talking, asking = (core.running() for _ in range(3))
    with core.database.autocommit() as connection:
        connection.execute(
            text("UPDATE executions SET attempt_started_at = now() - make_interval(secs => :s)"),
            {"s": SILENT_SECONDS + 5},
        )
    _record(core, talking, PendingWrites(talking.lease, [NewEvent(EventType.CUSTOM)]))
    with core.database.autocommit() as connection:
        approvals.ask(connection, asking.lease, ASKING.questions[0])
    assert _found(core, Flag.SILENT) == [quiet.lease.execution_id]
    with core.database.autocommit() as connection:
        for workspace in (core.actor.workspace_id, None):
            count, seconds = sitrep.silent(connection, workspace_id=workspace)
            assert (count, seconds is not None and seconds > SILENT_SECONDS) == (1, True)
        found = metrics.read(connection, queues=(), alive_seconds=9.0, statement_seconds=9.0)
    assert [each.silent for each in found.queues if each.running] == [1]
    assert core.get(quiet.lease.execution_id).flags == (Flag.SILENT,)
    assert core.get(talking.lease.execution_id).active_at is not None
    core.end(quiet, Completed("well"))
    ended = core.get(quiet.lease.execution_id)
    assert (ended.flags, ended.active_at) == ((), None)
    assert not _found(core, Flag.SILENT)
