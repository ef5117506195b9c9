"""Lists of runs and of items: each filter finds what it says, and reads a bounded part."""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import text

from celeriac.db.engine import Database
from celeriac.db.workflows import items, runs
from celeriac.domain.executions.states import Status
from celeriac.domain.executions.triggers import TriggerType
from celeriac.domain.workflows.records import RunFilter
from celeriac.domain.workflows.states import ItemStatus, RunStatus, StepStatus
from tests.support.core import Core
from tests.support.rows_read import rows_read
from tests.support.servers import PostgresServer
from tests.support.workflows import FAILS, Flows

pytestmark = pytest.mark.requirement("E3")

ROWS = 20_000
RARE = 40
"""Runs of each rare kind: the oldest ones, so that a scan from the newest reads all others."""
PAGE = 50
BOUND = 500


@dataclass(frozen=True, slots=True)
class Seeded:
    """Many runs, of which the oldest are rare."""

    database: Database
    workspace: UUID
    common: UUID
    rare: UUID


@pytest.fixture(scope="module")
def seeded(postgres_server: PostgresServer, migrated: str) -> Iterator[Seeded]:
    name = postgres_server.fresh_database(migrated)
    database = Database(postgres_server.url(name), connections=1, statement_seconds=120)
    flows = Flows(Core(database))
    common = flows.define("common", {"one": {"task": "one"}})
    made = flows.define("rare", {"one": {"task": "one"}})
    workspace = flows.core.actor.workspace_id
    parameters = {"rows": ROWS, "n": RARE, "common": common, "rare": made, "workspace": workspace}
    with database.autocommit() as connection:
        connection.execute(_SEED, parameters)
        connection.execute(text("VACUUM ANALYZE workflow_runs"))
    yield Seeded(database, workspace, common, made)
    database.close()
    postgres_server.drop_database(name)


_SEED = text("""
INSERT INTO workflow_runs (id, workspace_id, owner_id, workflow_id, workflow_version_id, status,
                           trigger_type, input, origin_id, parent_run_id, created_by, created_at,
                           completed_at)
SELECT CAST(lpad(to_hex(CAST(extract(epoch FROM at) * 1000 AS bigint)), 12, '0')
            || '7000a' || right(md5(CAST(g AS text)), 15) AS uuid),
       :workspace, gen_random_uuid(), w.id, w.current_version_id,
       CASE kind WHEN 1 THEN 'failed' WHEN 2 THEN 'cancelled' ELSE 'completed' END,
       CASE kind WHEN 3 THEN 'celery' WHEN 4 THEN 'manual' ELSE 'workflow' END, '{}',
       CASE WHEN kind = 5 THEN CAST(:rare AS uuid) END,
       CASE kind WHEN 6 THEN CAST(:rare AS uuid) WHEN 4 THEN NULL ELSE gen_random_uuid() END,
       'ada', at, at
FROM (SELECT g, CASE WHEN g <= 7 * :n THEN g % 7 ELSE 10 END AS kind,
             now() - make_interval(secs => (CAST(:rows AS int) - g) * 60) AS at
      FROM generate_series(1, CAST(:rows AS int)) AS g) AS rows
JOIN workflows w ON w.id = CASE kind WHEN 0 THEN CAST(:rare AS uuid)
                                     ELSE CAST(:common AS uuid) END
""")


def _cases(seeded: Seeded) -> dict[str, list[dict[str, Any]]]:
    oldest = datetime.now(UTC) - timedelta(seconds=60 * ROWS)
    return {
        "workspace_id": [{}],
        "workflow_id": [{"workflow_id": seeded.rare}, {"workflow_id": seeded.common}],
        "status": [{"status": each} for each in (RunStatus.FAILED, RunStatus.COMPLETED)],
        "origin_id": [{"origin_id": seeded.rare}],
        "parent_run_id": [{"parent_run_id": seeded.rare}],
        "top_level": [{"top_level": True}],
        "trigger_type": [{"trigger_type": each}
                         for each in (TriggerType.CELERY, TriggerType.WORKFLOW)],
        "created_after": [{"created_after": datetime.now(UTC) - timedelta(hours=5)}],
        "created_before": [{"created_before": oldest + timedelta(hours=5)}],
    }  # fmt: skip


@pytest.mark.parametrize("name", [each.name for each in fields(RunFilter)])
def test_a_filter_of_runs_reads_a_bounded_part(seeded: Seeded, name: str) -> None:
    for case in _cases(seeded)[name]:
        wanted = RunFilter(workspace_id=seeded.workspace, **case)
        work = partial(runs.find, wanted=wanted, before=None, limit=PAGE)
        with seeded.database.autocommit() as connection:
            assert work(connection), case
        for plan, count in rows_read(seeded.database, work, "workflow_runs"):
            assert count <= BOUND, f"{case} reads {count} rows:\n{plan}"


def test_the_filters_find_what_they_say(core: Core) -> None:
    flows = Flows(core)
    flows.define("below", {"one": {"task": "one"}})
    above = flows.start(flows.define("above", {"sub": {"workflow": "below"}}))
    flows.drive()
    [below] = flows.children(above)

    def found(**wanted: Any) -> set[UUID]:
        return {run.id for run in flows.runs.find(core.actor, RunFilter(**wanted)).items}

    now, hour = datetime.now(UTC), timedelta(hours=1)
    assert found() == {above, below.id}
    assert found(top_level=True) == {above}
    assert found(trigger_type=TriggerType.MANUAL) == {above}
    assert found(trigger_type=TriggerType.WORKFLOW) == {below.id}
    assert found(created_after=now - hour) == found(created_before=now + hour) == found()
    assert found(created_after=now + hour) == found(created_before=now - hour) == set()
    assert found(created_after=below.created_at) == {below.id}
    assert found(created_before=below.created_at) == {above}


def test_the_statuses_of_items_are_those_of_what_an_item_can_be() -> None:
    settled = {StepStatus.COMPLETED, StepStatus.FAILED, StepStatus.SKIPPED, StepStatus.DENIED,
               StepStatus.CANCELLED}  # fmt: skip
    assert set(ItemStatus) - {ItemStatus.DELETED} == {*Status, *RunStatus, *settled}


def test_items_are_found_by_status_over_all_pages(
    core: Core, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(items, "_LOOKED_AT", 4)
    flows = Flows(core)
    ran = flows.run(
        {
            "each": {
                "task": "each", "map": "input.list", "with": {"x": "${{ item }}"},
                "on_failure": "continue",
            }
        },
        lambda _, given: FAILS if given["x"] in (9, 10, 11) else given["x"],
        input={"list": "array"},
        given={"list": list(range(14))},
    )  # fmt: skip

    def found(status: ItemStatus) -> tuple[list[int], int]:
        numbers, after, pages = [], -1, 0
        while True:
            page = flows.runs.items(
                core.actor, ran.id, "each", after=after, limit=2, status=status, results=True
            )
            assert {each.status for each in page.items} <= {status.value}
            numbers += [each.item_no for each in page.items]
            pages += 1
            if page.next_after is None:
                return numbers, pages
            assert page.next_after > after
            after = page.next_after

    assert found(ItemStatus.FAILED) == ([9, 10, 11], 4)
    assert found(ItemStatus.COMPLETED)[0] == [*range(9), 12, 13]
    assert found(ItemStatus.RUNNING)[0] == []


def test_a_search_of_items_reads_no_more_than_it_may(seeded: Seeded) -> None:
    run_id = uuid4()
    with seeded.database.autocommit() as connection:
        connection.execute(_ITEMS, {"run": run_id, "rows": ROWS})
        connection.execute(text("VACUUM ANALYZE step_items"))
    work = partial(
        items.with_status, run_id=run_id, step_no=1, round_no=1, status=ItemStatus.FAILED,
        after=-1, limit=PAGE, results=False,
    )  # fmt: skip
    with seeded.database.autocommit() as connection:
        assert work(connection).next_after == items._LOOKED_AT - 1
    for plan, count in rows_read(seeded.database, work, "step_items"):
        assert count <= 2 * items._LOOKED_AT + 10, plan


_ITEMS = text("""
INSERT INTO step_items (run_id, step_no, item_no, round, status)
SELECT :run, 1, g, 1, 'completed' FROM generate_series(0, CAST(:rows AS int) - 1) AS g
""")
