"""Retention drops the partitions of periods that are wholly old."""

from dataclasses import replace
from pathlib import Path
from uuid import UUID

import pytest
from sqlalchemy import Connection, text
from sqlalchemy.exc import OperationalError

from celeriac.db import partitions
from celeriac.db import retention as retention_rows
from celeriac.db.retention import CHILDREN
from celeriac.domain.executions.states import Status
from celeriac.domain.workflows.states import RunStatus
from celeriac.services.storage_paths import StoragePaths
from tests.support.core import Core
from tests.support.retention import (
    NONE,
    POLICY,
    completed,
    count,
    make_ids_old,
    pass_days,
    places_in,
    retention,
)
from tests.support.workflows import Flows


@pytest.fixture
def places(tmp_path: Path) -> StoragePaths:
    return places_in(tmp_path)


@pytest.fixture(autouse=True)
def _ids_of_long_ago(monkeypatch: pytest.MonkeyPatch) -> None:
    make_ids_old(monkeypatch)


def partition_names(core: Core) -> set[str]:
    with core.database.autocommit() as connection:
        return set(connection.execute(_PARTITIONS).scalars())


_PARTITIONS = text(
    "SELECT relname FROM pg_class"
    " WHERE relkind = 'r' AND relname ~ '^(executions?|events|model_calls|reports)_'"
)


def named_after(core: Core, execution_id: UUID) -> set[str]:
    """Return the names of the partitions of the execution's period."""
    with core.database.autocommit() as connection:
        period = next(
            each
            for each in partitions.periods(connection)
            if each.least <= execution_id < each.above
        )
    return {period.name(table.name) for table in partitions.TABLES}


def test_a_period_that_is_wholly_old_is_dropped(core: Core, places: StoragePaths) -> None:
    old = [completed(core, places) for _ in range(5)]
    names = named_after(core, old[0])
    assert names <= partition_names(core)
    pass_days(core, places, 31)
    assert retention(core, places) >= len(old)
    assert not names & partition_names(core)
    for execution_id in old:
        assert [count(core, table, execution_id) for table in ("executions", *CHILDREN)] == NONE
        assert not places.workdir(execution_id).exists()
    again = completed(core, places)
    assert core.get(again).result == 1


def test_a_period_in_which_something_lives_stays_nearly_empty(
    core: Core, places: StoragePaths
) -> None:
    old = [completed(core, places) for _ in range(5)]
    live = core.running().lease.execution_id
    names = named_after(core, live)
    pass_days(core, places, 31)
    retention(core, places)
    assert names <= partition_names(core)
    assert all(count(core, "executions", each) == 0 for each in old)
    assert count(core, "executions", live) == 1


@pytest.mark.parametrize("how", ["before the check", "after the check", "while it detaches"])
def test_an_interrupted_drop_is_continued(core: Core, places: StoragePaths, how: str) -> None:
    old = completed(core, places)
    names = named_after(core, old)
    pass_days(core, places, 31)
    with core.database.autocommit() as connection:
        period = next(
            each for each in partitions.periods(connection) if each.least <= old < each.above
        )
        partitions.detach(connection, period)
        if how == "after the check":
            connection.exec_driver_sql(
                f"ALTER TABLE events DETACH PARTITION {period.name('events')} CONCURRENTLY"
            )
            connection.exec_driver_sql(f"DROP TABLE {period.name('execution_inputs')}")
        elif how == "while it detaches":
            partitions.attach(connection, period)
            _leave_pending(core, period)
    retention(core, places)
    assert not names & partition_names(core)


def test_copies_and_archives_of_others_are_left_alone(core: Core, places: StoragePaths) -> None:
    old = completed(core, places)
    (archive,) = (name for name in named_after(core, old) if name.startswith("executions_"))
    pass_days(core, places, 31)
    for statement in (
        "CREATE TABLE executions_20200106 AS SELECT * FROM executions",
        f"ALTER TABLE executions DETACH PARTITION {archive}",
    ):
        core.execute(statement)
    retention(core, places)
    assert {"executions_20200106", archive} <= partition_names(core)
    core.execute(f"DROP TABLE executions_20200106, {archive}")


def test_what_only_another_keeper_may_delete_is_not_left_behind(
    core: Core, places: StoragePaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = [completed(core, places) for _ in range(3)]
    for each in old:
        core.execute(
            "INSERT INTO steps (execution_id, number, name, kind, status, attempt, retry_count)"
            " VALUES (:id, 1, 'a', 'step', 'completed', 1, 0)", id=each
        )  # fmt: skip
    pass_days(core, places, 31)
    tries = iter([False])
    real = retention_rows.single_instance
    monkeypatch.setattr(
        retention_rows,
        "single_instance",
        lambda connection: next(tries, True) and real(connection),
    )
    policy = replace(POLICY, sessions=0, files=0, logs=0, audit=0, idempotency_keys=0)
    retention(core, places, policy)
    retention(core, places, policy)
    for each in old:
        assert [count(core, table, each) for table in ("executions", *CHILDREN)] == NONE


def _leave_pending(core: Core, period: partitions.Period) -> None:
    """Let a statement that detaches give up while it waits for a reader."""
    with core.database.transaction() as reader, core.database.autocommit() as connection:
        reader.execute(text("SELECT count(*) FROM executions"))
        connection.exec_driver_sql("SET lock_timeout = '100ms'")
        try:
            with pytest.raises(OperationalError):
                partitions.detach(connection, period)
        finally:
            connection.exec_driver_sql("RESET lock_timeout")


def test_a_row_that_turns_up_while_its_period_is_dropped_is_kept(
    core: Core, places: StoragePaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = completed(core, places)
    pass_days(core, places, 31)
    late: list[UUID] = []
    detach = partitions.detach

    def insert_first(connection: Connection, period: partitions.Period) -> None:
        late.append(core.queued())
        detach(connection, period)

    monkeypatch.setattr(partitions, "detach", insert_first)
    retention(core, places)
    assert count(core, "executions", late[0]) == 1
    assert count(core, "executions", old) == 0
    assert core.get(late[0]).status is Status.QUEUED


STEPS = {"a": {"task": "a"}, "b": {"task": "b", "needs": ["a"]}}


def test_a_run_makes_the_partition_of_its_events(core: Core) -> None:
    flows = Flows(core)
    run_id = flows.start(flows.define("w", STEPS))
    flows.drive()
    assert flows.ran(run_id).status is RunStatus.COMPLETED
    assert count(core, "events", run_id) > 0


def test_the_events_of_a_run_stay_while_it_lives(
    core: Core, places: StoragePaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = completed(core, places)
    flows = Flows(core)
    run_id = flows.start(flows.define("w", STEPS))
    first = flows.take()
    assert first is not None
    monkeypatch.undo()  # the second step begins now
    flows.end(first)
    before = count(core, "events", run_id)
    assert before > 0
    pass_days(core, places, 31)
    retention(core, places)
    assert count(core, "executions", old) == 0
    assert count(core, "events", run_id) == before
    flows.drive()
    assert flows.ran(run_id).status is RunStatus.COMPLETED
    retention(core, places)
    assert count(core, "events", run_id) > before
    core.execute("UPDATE workflow_runs SET completed_at = completed_at - interval '31 days'")
    names = named_after(core, run_id)
    retention(core, places)
    assert not names & partition_names(core)
