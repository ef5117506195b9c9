"""Plans are made once and kept: they must be right whatever the table held when they were made.

A nearly empty index, or a small table, looks cheap to read as a whole. Ten thousand rows later, the
connections still do as they planned.
"""

import re
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest
from sqlalchemy import Connection, text

from celeriac.db import metrics, partitions, retention, sessions, sitrep, workers, workspaces
from celeriac.db.engine import Database
from celeriac.db.executions import children, labels, leases, lifecycle, limits, park, queries, steps
from celeriac.db.executions import queries as queues
from celeriac.db.executions.change import move, set_priority
from celeriac.db.executions.ended import hold_rows
from celeriac.db.executions.lifecycle import NextClaim
from celeriac.db.sessions import MessageChange
from celeriac.db.workflows import undo
from celeriac.domain.executions.model import (
    Completed,
    ExecutionFilter,
    HandedBack,
    Lease,
    Message,
    Parked,
    WorkerIdentity,
)
from celeriac.domain.executions.states import Held, Status, WaitingFor
from celeriac.domain.executions.steps import NewStep, StepKind, StepStatus
from celeriac.domain.sessions import SessionFilter, SessionStatus
from celeriac.kit.ids import uuid7_at
from tests.support.core import Core, describe
from tests.support.query_plans import PARTS, Work, empty_partitions, indexes, plans

LEASE = Lease(uuid4(), 1, uuid4())
STEP = NewStep(
    number=1, path="1", name="a", kind=StepKind.STEP, status=StepStatus.COMPLETED, result="1"
)
MESSAGE = Message(uuid4(), 0, str(uuid4()))
WORKER = WorkerIdentity(uuid4(), "w")
TURN = NextClaim("task_execution", WORKER, uuid4())
LIVE = ExecutionFilter(workspace_id=uuid4(), statuses=(Status.PENDING, Status.RUNNING))
CANCELLABLE = ExecutionFilter(workspace_id=uuid4(), cancellable=True)
TROUBLE = ExecutionFilter(workspace_id=uuid4(), statuses=(Status.FAILED,))


def live_worker(connection: Connection) -> WorkerIdentity:
    """Register a worker process: only one with a valid lease can claim."""
    worker = WorkerIdentity(uuid4(), "w")
    workers.register(connection, describe(worker), lease_seconds=30.0)
    return worker


BY_ID = {"pk_executions"}
ENDS = BY_ID | {"ix_executions_siblings"}
"""An end releases the next child of the same step."""


def save_session(connection: Connection, messages: MessageChange) -> None:
    sessions.save(
        connection, LEASE, uuid4(), number=1, messages=messages, status=SessionStatus.ACTIVE
    )


STATEMENTS: dict[str, tuple[Work, set[str]]] = {
    "claim": (
        lambda c: lifecycle.claim(c, MESSAGE, token=uuid4(), worker=live_worker(c)),
        BY_ID,
    ),
    "complete": (lambda c: lifecycle.finish(c, LEASE, Completed(None)), ENDS),
    "hand back": (lambda c: lifecycle.finish(c, LEASE, HandedBack()), ENDS),
    "complete and take the next": (
        lambda c: lifecycle.finish(c, LEASE, Completed(None), TURN),
        ENDS | {"ix_executions_due"},
    ),
    "cancel": (lambda c: lifecycle.request_cancel(c, [uuid4()], "someone"), ENDS),
    "cancel what has expired": (
        lambda c: lifecycle.end_expired(c, limit=100),
        {"ix_executions_expiring"},
    ),
    "lock what waits for slots": (lambda c: limits.hold(c, [uuid4()]), BY_ID),
    "who has slots and who waits": (lambda c: limits.users(c, uuid4(), "a"), BY_ID),
    "give slots": (lambda c: limits.give(c, [uuid4()]), BY_ID),
    "what deleted workspaces have left": (
        lambda c: workspaces.left_executions(c, seconds=60.0, limit=100),
        {"ix_executions_status"},
    ),
    "renew a lease": (
        lambda c: leases.renew(c, uuid4(), lease_seconds=30.0),
        {"ix_executions_worker"},
    ),
    "find a claim": (
        lambda c: lifecycle.find_claim(c, uuid4(), uuid4()),
        {"ix_executions_worker"},
    ),
    "store notes": (
        lambda c: leases.store_batch(c, [leases.PendingWrites(LEASE)]),
        BY_ID,
    ),
    "queue what is due": (
        lambda c: lifecycle.queue_due(c, {"task_execution": 16}, other_window=16),
        BY_ID | {"ix_executions_due", "ix_executions_sent"},
    ),
    "release what has become due": (
        lambda c: lifecycle.release_due(c, limit=500),
        BY_ID | {"ix_executions_delayed"},
    ),
    "change priorities": (lambda c: set_priority(c, [uuid4()], 3), BY_ID),
    "move to another queue": (lambda c: move(c, [uuid4()], "spare"), BY_ID),
    "figures for monitoring": (
        lambda c: metrics.read(c, queues=["a"], alive_seconds=9.0, statement_seconds=9.0),
        BY_ID
        | {"ix_executions_due", "ix_executions_sent", "ix_executions_worker"}
        | {"ix_executions_delayed", "ix_executions_paused", "ix_executions_parked"},
    ),
    "count what waits for a worker": (
        queues.waiting_counts,
        {"ix_executions_due", "ix_executions_delayed", "ix_executions_sent"},
    ),
    "count the live of a workspace": (
        lambda c: sitrep.live(c, workspace_id=uuid4()),
        {"ix_executions_status"},
    ),
    "count the live of all": (
        lambda c: sitrep.live(c, workspace_id=None),
        {
            "ix_executions_due",
            "ix_executions_sent",
            "ix_executions_delayed",
            "ix_executions_paused",
            "ix_executions_worker",
            "ix_executions_parked",
        },
    ),
    "count the silent of a workspace": (
        lambda c: sitrep.silent(c, workspace_id=uuid4()),
        {"ix_executions_status"},
    ),
    "count the silent of all": (
        lambda c: sitrep.silent(c, workspace_id=None),
        {"ix_executions_worker"},
    ),
    "what schedules have started last": (
        lambda c: sitrep.periodic(c, workspace_id=uuid4(), limit=100),
        BY_ID,
    ),
    "take back what was not sent": (
        lambda c: lifecycle.unqueue(
            c, {uuid4(): str(uuid4())}, delay=2.0, reason="broker_unavailable"
        ),
        BY_ID,
    ),
    "find lost messages": (
        lambda c: queues.queued_counts(c, older_than=15.0),
        {"ix_executions_sent"},
    ),
    "send again": (
        lambda c: lifecycle.resend(c, "task_execution", older_than=15.0, limit=100),
        BY_ID | {"ix_executions_sent"},
    ),
    "rescue": (
        lambda c: lifecycle.rescue_lost(c, limit=100, base_delay=2.0),
        ENDS | {"ix_executions_worker"},
    ),
    "what stopped workers have left": (
        lambda c: lifecycle.left_behind(c, limit=100),
        {"ix_executions_worker"},
    ),
    "lock what belongs to an end": (lambda c: hold_rows(c, [uuid4()]), BY_ID),
    "who works in a session": (
        lambda c: sessions.used_by(c, uuid4(), forks=True),
        {"ix_executions_session"},
    ),
    "list what worked in a session": (
        lambda c: queries.find(c, ExecutionFilter(session_id=uuid4()), before=None, limit=50),
        {"ix_executions_session"},
    ),
    "list the sessions of an execution": (
        lambda c: sessions.find(c, SessionFilter(execution_id=uuid4()), before=None, limit=50),
        BY_ID,
    ),
    "fail what nobody answered": (
        lambda c: lifecycle.expire(c, uuid4(), code="c", message="m", approval_id=uuid4()),
        ENDS,
    ),
    "park": (
        lambda c: lifecycle.finish(c, LEASE, Parked(WaitingFor.BUDGET, "", seconds=1)),
        ENDS,
    ),
    "go on without children": (
        lambda c: park.resume_without_children(c, uuid4()),
        BY_ID,
    ),
    "read the labels of a lease": (lambda c: labels.lock_held(c, LEASE), BY_ID),
    "write labels with an event": (lambda c: labels.write(c, uuid4(), {"a": "b"}, event={}), BY_ID),
    "store a step": (lambda c: steps.store(c, LEASE, STEP), BY_ID),
    "expect children": (
        lambda c: children.expect(c, LEASE, step=1, execution_ids=[uuid4()]),
        BY_ID,
    ),
    "read the children of a step": (
        lambda c: children.of_step(c, uuid4(), step=1, limit=100),
        BY_ID,
    ),
    "release siblings": (lambda c: children.release(c, limit=100), ENDS),
    "find children to cancel": (
        lambda c: children.orphans(c, limit=100),
        {"ix_executions_siblings"},
    ),
    "forget ended parents": (
        lambda c: children.forget_parents(c, limit=100),
        {"ix_executions_siblings"},
    ),
    "count the children": (lambda c: children.counts(c, uuid4()), {"ix_executions_parent"}),
    "list the children": (
        lambda c: queries.find(c, ExecutionFilter(parent_id=uuid4()), before=None, limit=50),
        {"ix_executions_parent"},
    ),
    "save a session": (lambda c: save_session(c, MessageChange(1, ["2"])), BY_ID),
    "find what a run undoes": (
        lambda c: undo.plan(c, uuid4(), 1, [undo.Undoable(1, started=True, parallel=None)]),
        BY_ID,
    ),
    "read what undo tasks are given": (
        lambda c: undo.next_items(c, uuid4(), 2, 1, limit=1_000),
        BY_ID,
    ),
    "find what was not undone": (lambda c: undo.first_not_undone(c, uuid4(), 2), BY_ID),
    "retry what was not undone": (
        lambda c: undo.take_over(c, uuid4(), uuid4(), 1, []),
        BY_ID,
    ),
    "what ended long ago": (
        lambda c: retention.old_executions(c, days=90, after=UUID(int=0), bound=uuid4(), limit=100),
        BY_ID,
    ),
    "how old executions are": (lambda c: retention.ages(c, [uuid4()], days=30), BY_ID),
    "forget what ended": (lambda c: retention.delete_executions(c, [uuid4()]), BY_ID),
    "list by ids": (
        lambda c: queries.find(c, ExecutionFilter(ids=[uuid4()]), before=None, limit=50),
        BY_ID,
    ),
    "which of a user's to cancel": (
        lambda c: queries.find_ids(c, CANCELLABLE, before=uuid4(), limit=500),
        {"ix_executions_status"},
    ),
    "how many of a user's to cancel": (
        lambda c: queries.count(c, CANCELLABLE, before=None, most=10_000),
        {"ix_executions_status"},
    ),
    "how many of a user's failed": (
        lambda c: queries.count(c, TROUBLE, before=uuid4(), most=10_000),
        {"ix_executions_status"},
    ),
    "where an export ends": (
        lambda c: queries.end_of(c, TROUBLE, before=uuid4(), limit=100_000),
        {"ix_executions_status"},
    ),
    "list what is live": (
        lambda c: queries.find(c, LIVE, before=None, limit=50),
        BY_ID | {"ix_executions_status"},
    ),
}


_SIZES = {
    "small": (20, False, 0),
    "grown": (2000, False, 0),
    "busy": (2000, True, 0),
    "aged": (2000, True, 12),
}


@pytest.fixture(params=list(_SIZES.values()), ids=list(_SIZES))
def analysed(request: pytest.FixtureRequest, database: Database) -> Database:
    """A database with so many ended executions, and live ones or none, as the planner knows.

    Half of those that have ended are spread over as many weeks.
    """
    ended, busy, weeks = request.param
    core = Core(database)
    core.pending_many([{}] * ended)
    with database.autocommit() as connection:
        connection.execute(text("UPDATE executions SET status = 'completed', completed_at = now()"))
    if weeks:
        grow_old(database, weeks)
    if busy:
        core.pending_many([{}] * (ended // 40))
        with database.autocommit() as connection:
            connection.execute(_RUNS)
    with database.autocommit() as connection:
        analyse(connection)
        if ended > 100:
            # a page of each: reading all of it looks cheaper than looking for several
            for name, statement in _OF_EXECUTIONS.items():
                connection.execute(text(statement))
                connection.execute(text(f"VACUUM ANALYZE {name}"))
    return database


def analyse(connection: Connection) -> None:
    """Analyse the partitions that hold something, as autovacuum does: it leaves out empty ones."""
    empty = empty_partitions(connection)
    for period in partitions.periods(connection):
        name = period.name("executions")
        if name not in empty:
            connection.execute(text(f"VACUUM ANALYZE {name}"))


def grow_old(database: Database, weeks: int) -> None:
    """Make every second execution up to so many weeks older, with partitions of their own."""
    now = datetime.now(UTC)
    with database.transaction() as connection:
        partitions.ensure(connection, [uuid7_at(now - timedelta(weeks=weeks)), uuid7_at(now)])
        connection.execute(_GROW_OLD, {"weeks": weeks})


_GROW_OLD = text("""
WITH numbered AS (
    SELECT id, row_number() OVER (ORDER BY id) AS number FROM executions
)
UPDATE executions e
SET id = CAST(overlay(CAST(e.id AS text) PLACING (
        SELECT left(each, 8) || '-' || right(each, 4) FROM lpad(to_hex(CAST(
            extract(epoch FROM now() - make_interval(days => CAST(number % (7 * :weeks) AS int)))
            * 1000 AS bigint)), 12, '0') AS each) FROM 1) AS uuid)
FROM numbered
WHERE e.id = numbered.id AND number % 2 = 0
""")

_OF_EXECUTIONS = {
    "steps": """
        INSERT INTO steps (execution_id, number, name, kind, status, attempt, retry_count)
        SELECT gen_random_uuid(), 1, 'a', 'step', 'completed', 1, 0
        FROM generate_series(1, 20)""",
    "children": """
        INSERT INTO children (parent_id, step, item, execution_id)
        SELECT gen_random_uuid(), 1, 0, gen_random_uuid() FROM generate_series(1, 20)""",
    "live_children": """
        INSERT INTO live_children (execution_id, shard, live)
        SELECT gen_random_uuid(), 0, 1 FROM generate_series(1, 20)""",
    "sessions": """
        INSERT INTO sessions (id, workspace_id, owner_id, execution_id, runner, status)
        SELECT gen_random_uuid(), gen_random_uuid(), gen_random_uuid(), gen_random_uuid(),
               'python', 'active'
        FROM generate_series(1, 20)""",
    "webhook_endpoints": """
        INSERT INTO webhook_endpoints (id, workspace_id, owner_id, url, events)
        SELECT gen_random_uuid(), gen_random_uuid(), gen_random_uuid(),
               'https://hooks.example', '{}'
        FROM generate_series(1, 20)""",
}

_RUNS = text("""
    UPDATE executions
    SET status = 'running', lease_token = gen_random_uuid(), queued_at = now(), started_at = now(),
        worker_id = gen_random_uuid()
    WHERE id IN (SELECT id FROM executions WHERE status = 'pending' LIMIT 20)
""")


@pytest.mark.parametrize("name", STATEMENTS)
def test_a_kept_plan_reads_by_the_right_index(analysed: Database, name: str) -> None:
    work, wanted = STATEMENTS[name]

    assert indexes(analysed, work) == wanted


def test_a_new_execution_counts_what_its_queue_has_out_and_looks_for_what_is_due(
    analysed: Database,
) -> None:
    core = Core(analysed)

    assert indexes(analysed, lambda _: core.queued()) == {
        "ix_executions_sent",
        "ix_executions_due",
    }


_HOLDS = text("""
    UPDATE executions SET held = :held, available_at = now() + interval '1 hour'
    WHERE status = 'pending' AND held IS NULL AND CAST(:held AS text) IS NOT NULL
""")


@pytest.fixture
def crowded(analysed: Database) -> Database:
    """A database with many pending executions, too, held and not held, as the planner knows."""
    core = Core(analysed)
    for held in (*Held, None):
        core.pending_many([{}] * 500)
        with analysed.autocommit() as connection:
            connection.execute(_HOLDS, {"held": held})  # those that are not held yet
    with analysed.autocommit() as connection:
        analyse(connection)
    return analysed


@pytest.mark.parametrize(
    ("name", "index", "condition"),
    [
        ("complete and take the next", "due", "queue = .* AND .*available_at <= now"),
        ("queue what is due", "due", "queue = .* AND .*available_at <= now"),
        ("release what has become due", "delayed", "available_at <= now"),
    ],
)
def test_the_first_of_many_are_found_without_reading_the_others(
    crowded: Database, name: str, index: str, condition: str
) -> None:
    """The index has their order, and ends where they do."""
    work, wanted = STATEMENTS[name]
    assert indexes(crowded, work) == wanted
    found = plans(crowded, work)[0]
    with crowded.autocommit() as connection:
        parts = [row[0] for row in connection.execute(PARTS) if row[1] == f"ix_executions_{index}"]
    assert len(parts) > 1
    scan = rf"-> +Index Scan using ({'|'.join(parts)}) .*\n\s+Index Cond: .*{condition}.*\n"
    only_if = r"(?:-> +Result .*\n\s+One-Time Filter: .*\n\s+)?"
    merged = r"-> +Merge Append.*\n\s+Sort Key: .*\n"
    first = rf"LockRows.*\n\s+{only_if}{merged}((?:\s+{only_if}{scan}(?:\s+Filter: .*\n)?)+)"
    read = re.search(first, found)
    assert read is not None, f"it is sorted, too: {found}"
    assert {each[1] for each in re.finditer(scan, read[1])} == set(parts)


def test_the_statements_are_seen_as_they_are(database: Database) -> None:
    assert indexes(database, lambda c: queries.get(c, UUID(int=1), workspace=None)) == BY_ID
