"""No filter of a list of executions reads more than a bounded part of them (ADR 36)."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import Connection, text

from celeriac.db import partitions
from celeriac.db.engine import Database
from celeriac.db.executions import queries
from celeriac.domain.executions.flags import Flag
from celeriac.domain.executions.model import ExecutionFilter, FailureKey
from celeriac.domain.executions.states import Status, WaitingFor
from celeriac.domain.executions.triggers import TriggerType
from celeriac.domain.labels import Label
from celeriac.kit.ids import uuid7, uuid7_at
from tests.support.core import Core
from tests.support.rows_read import rows_read
from tests.support.servers import PostgresServer

ROWS = 100_000
RARE = 40
"""Rows of each rare kind: the oldest ones, so that a scan from the newest reads all others."""
PAGE = 50
COUNTED = 1_000
BOUND = 2_500
"""What a page or a count may read: far less than there is."""


RARE_LABEL, ANY_LABEL = Label("is", "rare"), Label("is", "any")

_SPAN = timedelta(seconds=20 * ROWS)
"""From the oldest to the newest: several partitions."""


@dataclass(frozen=True, slots=True)
class Seeded:
    """A large table of executions, and what is rare in it."""

    database: Database
    workspace: UUID
    owner: UUID
    """Who made all executions; nearly all are in the workspace."""
    rare: UUID
    """The task, agent, batch, session and origin of the oldest executions."""
    common: UUID
    """The task and agent of all others."""


@pytest.fixture(scope="module")
def seeded(postgres_server: PostgresServer, migrated: str) -> Iterator[Seeded]:
    """Ended executions, 20 s apart, the oldest ones of rare kinds; some that live."""
    name = postgres_server.fresh_database(migrated)
    database = Database(postgres_server.url(name), connections=1, statement_seconds=120)
    core = Core(database)
    rare, common = uuid4(), core.task
    with database.transaction() as connection:
        connection.execute(_TASK, {"rare": rare, "common": common})
        partitions.ensure(connection, [uuid7_at(datetime.now(UTC) - _SPAN), uuid7()])
        connection.execute(
            _SEED,
            {
                "rows": ROWS, "n": RARE, "workspace": core.actor.workspace_id,
                "owner": core.actor.user_id, "rare": rare, "common": common,
            },
        )  # fmt: skip
        connection.execute(_LABELS, {"rare": rare})
    with database.autocommit() as connection:
        connection.execute(text("VACUUM ANALYZE executions"))
        connection.execute(text("VACUUM ANALYZE execution_labels"))
    yield Seeded(database, core.actor.workspace_id, core.actor.user_id, rare, common)
    database.close()
    postgres_server.drop_database(name)


_TASK = text("""
INSERT INTO tasks (id, workspace_id, owner_id, agent_id, name, current_version_id)
SELECT :rare, workspace_id, owner_id, agent_id, 'rare', current_version_id FROM tasks
WHERE id = :common
""")

_LABELS = text("""
INSERT INTO execution_labels (workspace_id, key, value, execution_id)
SELECT workspace_id, 'is', unnest(CASE task_id WHEN :rare THEN '{rare,any}' ELSE '{any}'
                                  END::text[]), id
FROM executions
""")

_SEED = text("""
INSERT INTO executions (
    id, workspace_id, owner_id, task_id, task_version_id, agent_version_id, agent_id, status,
    trigger_type, execution_mode, priority, queue, origin_id, batch_id, session_id, parent_id,
    created_at, available_at, queued_at, completed_at, max_crashes, waiting_for, error_code,
    error_fingerprint, worker_id, no_op, truncated, denied_tool_count)
SELECT CAST(lpad(to_hex(CAST(extract(epoch FROM at) * 1000 AS bigint)), 12, '0')
            || '7000a' || right(md5(CAST(g AS text)), 15) AS uuid),
       CASE WHEN g % 100 = 0 THEN gen_random_uuid() ELSE CAST(:workspace AS uuid) END,
       CAST(:owner AS uuid),
       CASE WHEN kind = 0 THEN CAST(:rare AS uuid) ELSE CAST(:common AS uuid) END,
       gen_random_uuid(), gen_random_uuid(),
       CASE WHEN kind = 0 THEN CAST(:rare AS uuid) ELSE CAST(:common AS uuid) END,
       status,
       CASE kind WHEN 0 THEN 'webhook' WHEN 1 THEN 'scheduled' WHEN 2 THEN 'workflow'
                 ELSE 'manual' END,
       'async', 0, 'task_execution',
       CASE WHEN kind = 0 THEN CAST(:rare AS uuid) WHEN kind = 9 THEN gen_random_uuid() END,
       CASE WHEN kind = 0 THEN CAST(:rare AS uuid) WHEN kind = 9 THEN gen_random_uuid() END,
       CASE WHEN kind = 0 THEN CAST(:rare AS uuid) WHEN kind = 9 THEN gen_random_uuid() END,
       CASE WHEN kind = 0 THEN CAST(:rare AS uuid) WHEN kind = 9 THEN gen_random_uuid() END,
       at, at, CASE WHEN status = 'queued' THEN at END,
       CASE WHEN status IN ('completed', 'failed', 'cancelled') THEN at END, 3,
       CASE WHEN status = 'waiting'
            THEN (ARRAY['approval', 'budget', 'provider_limit'])[g % 3 + 1] END,
       CASE WHEN status = 'failed' THEN CASE kind WHEN 0 THEN 'rare' ELSE 'common' END END,
       CASE WHEN status = 'failed' THEN CASE WHEN kind = 0 OR g % 1000 = 0 THEN '1:rare'
                                             ELSE '1:common' END END,
       gen_random_uuid(), kind = 1, kind = 2, CASE WHEN kind = 8 THEN 1 ELSE 0 END
FROM (SELECT g, CASE WHEN g <= 10 * :n THEN g % 10 WHEN g % 20 = 0 THEN 9 ELSE 10 END AS kind,
             now() - make_interval(secs => (CAST(:rows AS int) - g) * 20) AS at
      FROM generate_series(1, CAST(:rows AS int)) AS g) AS rows,
     LATERAL (SELECT CASE kind WHEN 0 THEN 'failed' WHEN 3 THEN 'cancelled' WHEN 4 THEN 'waiting'
                               WHEN 5 THEN 'pending' WHEN 6 THEN 'queued' WHEN 7 THEN 'running'
                               WHEN 9 THEN 'failed'
                               ELSE 'completed' END AS status) AS s
""")


def _cases(seeded: Seeded) -> Mapping[str, list[dict[str, Any]]]:
    """Return filters by the field of `ExecutionFilter` that they show."""
    oldest = datetime.now(UTC) - _SPAN
    return {
        "workspace_id": [{}],
        "ids": [{"ids": [uuid4() for _ in range(100)]}],
        "statuses": [
            *({"statuses": (status,)} for status in Status),
            {"statuses": tuple(each for each in Status if not each.terminal)},
            {"statuses": (Status.FAILED, Status.CANCELLED)},
        ],
        "task_id": [{"task_id": seeded.rare}, {"task_id": seeded.common}],
        "agent_id": [{"agent_id": seeded.rare}, {"agent_id": seeded.common}],
        "batch_id": [{"batch_id": seeded.rare}],
        "origin_id": [{"origin_id": seeded.rare}],
        "session_id": [{"session_id": seeded.rare}],
        "parent_id": [{"parent_id": seeded.rare}],
        "trigger_type": [{"trigger_type": each} for each in TriggerType],
        "waiting_for": [{"waiting_for": each} for each in WaitingFor],
        "error_code": [{"error_code": "rare"}, {"error_code": "common"}, {"error_code": "none"}],
        "labels": [
            {"labels": (RARE_LABEL,)},
            {"labels": (ANY_LABEL,)},
            {"labels": (Label("is", "none"), ANY_LABEL)},
            {"labels": (RARE_LABEL, ANY_LABEL), "statuses": (Status.FAILED,)},
        ],
        "without_labels": [{"without_labels": (RARE_LABEL,)}],
        "failure": [
            {"failure": FailureKey(seeded.rare, "1:rare")},
            {"failure": FailureKey(seeded.common, "1:rare")},
            {"failure": FailureKey(seeded.common, "1:common")},
            {"failure": FailureKey(seeded.common, "1:none"), "statuses": (Status.FAILED,)},
        ],
        "flag": [{"flag": each} for each in Flag],
        "created_after": [{"created_after": oldest + timedelta(days=1)}],
        "created_before": [{"created_before": oldest + timedelta(days=1)}],
        "cancellable": [{"cancellable": True}],
        "queue": [
            {"cancellable": True, "queue": "task_execution"},
            {"cancellable": True, "queue": "none"},
        ],
    }


FIELDS = [each.name for each in fields(ExecutionFilter)]

READS: dict[str, Callable[[Connection, ExecutionFilter], object]] = {
    "list": lambda c, wanted: queries.find(c, wanted, before=None, limit=PAGE),
    "a later page": lambda c, wanted: queries.find(
        c, wanted, before=uuid7_at(datetime.now(UTC) - timedelta(days=1)), limit=PAGE
    ),
    "ids": lambda c, wanted: queries.find_ids(c, wanted, before=None, limit=PAGE),
    "count": lambda c, wanted: queries.count(c, wanted, before=None, most=COUNTED),
}


@pytest.mark.parametrize("field", FIELDS)
def test_a_filter_reads_a_bounded_part(seeded: Seeded, field: str) -> None:
    for case in _cases(seeded)[field]:
        for name, read in READS.items():
            wanted = ExecutionFilter(workspace_id=seeded.workspace, **case)
            for plan, count in rows_read(seeded.database, partial(_read, read, wanted)):
                assert count <= BOUND, f"{name} by {case} reads {count} rows:\n{plan}"


def test_the_work_of_a_user_in_all_workspaces_is_found_among_what_lives(seeded: Seeded) -> None:
    def find(connection: Connection) -> object:
        return queries.cancellable_of(connection, owner_id=seeded.owner, limit=PAGE)

    for plan, count in rows_read(seeded.database, find):
        assert count <= BOUND, f"reads {count} rows:\n{plan}"


def _read(
    read: Callable[[Connection, ExecutionFilter], object],
    wanted: ExecutionFilter,
    connection: Connection,
) -> object:
    return read(connection, wanted)


def test_the_bound_is_passed_by_a_scan(seeded: Seeded) -> None:
    scan = text("SELECT id FROM executions WHERE worker_hostname = 'none' ORDER BY id LIMIT 50")
    counts = [count for _, count in rows_read(seeded.database, lambda c: c.execute(scan).all())]
    assert min(counts) >= ROWS
