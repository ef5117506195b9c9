"""Retention: what is old enough goes with all its traces, what lives never does."""

from dataclasses import replace
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from sqlalchemy import text
from structlog.testing import capture_logs

from celeriac.db import sessions
from celeriac.db.locks import AdvisoryLock
from celeriac.db.retention import CHILDREN
from celeriac.db.schema import metadata
from celeriac.domain.errors import ConflictError
from celeriac.domain.executions.deliveries import DeliveryKeys, NewHookDelivery
from celeriac.domain.executions.model import Completed, Idempotency, SubmitRequest
from celeriac.domain.executions.options import RunOptions
from celeriac.domain.sessions import SessionStatus
from celeriac.domain.workflows.records import RunFilter
from celeriac.domain.workflows.states import RunStatus
from celeriac.kit.files import remove_tree
from celeriac.services.operations import retention as retaining
from celeriac.services.operations.retention import RetentionPolicy
from celeriac.services.storage_paths import StoragePaths
from tests.support.core import Core
from tests.support.families import claim_of, parent_of
from tests.support.retention import (
    NONE,
    POLICY,
    completed,
    count,
    leave_files,
    make_ids_old,
    pass_days,
    places_in,
    retention,
    with_session,
)
from tests.support.workflows import FAILS, Flows

_KEPT_WITHOUT = frozenset(
    {
        "sessions", "cassettes", "deliveries", "hook_deliveries", "budget_reservations",
        "children", "step_items",
        "item_ends", "schedule_fires", "execution_limits", "debounces", "execution_ends",
        "bulk_job_items", "artifacts", "file_sets",
    }
)  # fmt: skip
"""Tables that name an execution and outlive it.

Rows of `children` go with the parent, those of `step_items` and `item_ends` with the run, those of
`execution_limits` with the end of the execution, those of `debounces` when it is due, those of
`bulk_job_items` with the job, and those of `artifacts` and `file_sets` with the session or the
execution whose files they are.
"""


@pytest.fixture
def places(tmp_path: Path) -> StoragePaths:
    return places_in(tmp_path)


@pytest.fixture(autouse=True)
def _ids_of_long_ago(monkeypatch: pytest.MonkeyPatch) -> None:
    make_ids_old(monkeypatch)


def session_status(core: Core, session_id: UUID) -> SessionStatus | None:
    with core.database.autocommit() as connection:
        found = sessions.get(connection, session_id, workspace=None)
    return None if found is None else found.status


def test_every_table_that_names_an_execution_is_thought_of() -> None:
    naming = {name for name, table in metadata.tables.items() if "execution_id" in table.c}
    assert naming - _KEPT_WITHOUT == set(CHILDREN)


def test_old_executions_go_with_all_their_traces(core: Core, places: StoragePaths) -> None:
    old = [completed(core, places) for _ in range(5)]
    pass_days(core, places, 20)
    young = completed(core, places)
    pass_days(core, places, 11)
    retention(core, places)
    for execution_id in old:
        assert [count(core, table, execution_id) for table in ("executions", *CHILDREN)] == NONE
        assert not places.workdir(execution_id).exists()
        assert not places.log_file(execution_id).exists()
    assert core.get(young).result == 1
    assert count(core, "events", young) > 0
    assert core.count("budget_windows") == 1, "that of the young one"
    core.assert_consistent()
    assert retention(core, places) == 0, "nothing is left to do"


def test_what_a_parent_knows_of_its_children_goes_with_it(core: Core, places: StoragePaths) -> None:
    claim, children = parent_of(core, 2)
    for child in children:
        core.end(claim_of(core, child), Completed(1))
    core.end(claim, Completed(1))
    tables = ("executions", "children", "steps", "live_children", "execution_trees")
    assert all(core.count(each) for each in tables)

    pass_days(core, places, 31)
    retention(core, places)

    assert [core.count(each) for each in tables] == [0] * len(tables)


def test_what_lives_is_never_touched(core: Core, places: StoragePaths) -> None:
    live = [core.queued(), core.running().lease.execution_id, core.waiting(), core.pending()]
    for execution_id in live:
        leave_files(places, execution_id)
    pass_days(core, places, 1000)
    everything = RetentionPolicy(
        executions=0.001, sessions=0.001, files=0.001, logs=0.001, audit=0.001,
        idempotency_keys=0.001, deliveries=0.001, rollups=0.001,
    )  # fmt: skip
    retention(core, places, everything)
    for execution_id in live:
        assert not core.get(execution_id).status.terminal
        assert (places.workdir(execution_id) / "out.txt").exists()
        assert places.log_file(execution_id).exists()


def test_files_go_before_their_execution_does(core: Core, places: StoragePaths) -> None:
    execution_id = completed(core, places)
    nobody = uuid4()
    leave_files(places, nobody)
    (places.logs / "errors").mkdir()
    errors = places.logs / "errors" / "task-errors-2026-01-01.log"
    errors.touch()
    for name in ("api.log", "task-execution-x.log"):
        (places.logs / name).touch()
    pass_days(core, places, 9)
    assert retention(core, places) == 0
    pass_days(core, places, 2)
    retention(core, places)
    assert list(places.workdirs.iterdir()) == []
    assert sorted(path.name for path in places.logs.iterdir()) == [
        "api.log", "errors", "task-execution-x.log",
    ]  # fmt: skip
    assert not errors.exists()
    assert core.get(execution_id).result == 1


def test_idle_sessions_go_and_those_in_use_stay(core: Core, places: StoragePaths) -> None:
    idle, used, forked = (with_session(core, places) for _ in range(3))
    core.submit(core.actor, SubmitRequest(task_id=core.task, session_id=used))
    fork = RunOptions(fork_session=True)
    core.submit(core.actor, SubmitRequest(task_id=core.task, session_id=forked, options=fork))
    pass_days(core, places, 19)
    assert retention(core, places) == 0
    pass_days(core, places, 2)
    retention(core, places)
    assert session_status(core, idle) is SessionStatus.DELETED
    assert not places.session(idle).exists()
    assert session_status(core, used) is SessionStatus.ACTIVE
    assert session_status(core, forked) is SessionStatus.ENDED, "somebody is about to fork it"
    for kept in (used, forked):
        assert (places.session(kept) / "work" / "a.txt").exists()
    for _ in range(2):  # the executions first, then the row that nothing names any more
        pass_days(core, places, 31)
        retention(core, places)
    assert session_status(core, idle) is None


def test_an_interrupted_removal_is_taken_up_again(core: Core, places: StoragePaths) -> None:
    session_id = with_session(core, places)
    with core.database.transaction() as connection:
        sessions.delete(connection, session_id)  # and then the machine went away
    retention(core, places)
    assert not places.session(session_id).exists()
    assert retention(core, places) == 0


OF_RUNS = (
    "workflow_runs", "step_runs", "fan_ins", "step_items", "item_ends", "executions", "events",
)  # fmt: skip


def test_old_runs_of_workflows_go_with_their_steps_and_items(
    core: Core, places: StoragePaths
) -> None:
    flows = Flows(core)
    inner = {"each": {"task": "echo", "map": "[1, 2, 3, 4, 5]"}}
    flows.define("inner", inner)
    outer = flows.define("outer", {"a": {"workflow": "inner"}, "b": {"task": "slow"}})
    old = flows.run(inner)
    assert old.status is RunStatus.COMPLETED
    live = flows.start(outer)
    slow = next(c for c in iter(flows.take, None) if flows.names[c.task_id] == "slow")
    flows.drive()
    (below,) = flows.children(live)
    assert below.completed_at is not None

    pass_days(core, places, 31)
    retention(core, places)

    wanted = RunFilter()
    found = [each.id for each in flows.runs.find(core.actor, wanted).items]
    assert found == [below.id, live], "also what a live run refers to"
    assert core.count("step_runs") == 3
    assert flows.runs.log(old.id, after=0, limit=10) == []
    flows.end(slow)
    assert flows.ran(live).status is not RunStatus.RUNNING, "its log still has a place"
    pass_days(core, places, 31)
    retention(core, places)
    assert [core.count(each) for each in OF_RUNS] == [0] * len(OF_RUNS)


def test_deliveries_to_hooks_are_remembered_for_their_time(
    core: Core, places: StoragePaths
) -> None:
    def started(name: str) -> tuple[UUID, bool]:
        new = NewHookDelivery(hook, core.actor.workspace_id, DeliveryKeys(name), 2)
        request = SubmitRequest(task_id=core.task, delivery=new)
        made = core.submit(core.actor, request)
        return made.execution_id, made.created

    hook = uuid4()
    first = {name: started(name)[0] for name in ("a", "b", "c")}
    assert started("a") == (first["a"], False)
    pass_days(core, places, 2)
    retention(core, places)
    assert {name: started(name)[0] for name in first} == first
    pass_days(core, places, 2)
    retention(core, places)
    assert core.count("hook_deliveries") == 0
    assert started("a")[1], "a new one"


def test_a_run_whose_results_are_deleted_is_not_run_again(core: Core, places: StoragePaths) -> None:
    flows = Flows(core)
    steps = {"a": {"task": "a"}, "b": {"task": "b", "needs": ["a"]}}
    ran = flows.run(steps, lambda name, given: FAILS if name == "b" else given)
    pass_days(core, places, 31)
    core.execute("UPDATE workflow_runs SET completed_at = now()")
    retention(core, places)

    assert [item.status for item in ran.items("a")] == ["deleted"]
    with pytest.raises(ConflictError, match="are deleted"):
        flows.runs.retry(core.actor, ran.id)
    assert len(flows.runs.find(core.actor, RunFilter()).items) == 1


def test_zero_keeps_everything(core: Core, places: StoragePaths) -> None:
    execution_id = completed(core, places)
    session_id = with_session(core, places)
    pass_days(core, places, 10_000)
    for_ever = RetentionPolicy(
        executions=0,
        sessions=0,
        files=0,
        logs=0,
        audit=0,
        idempotency_keys=0,
        deliveries=0,
        rollups=0,
    )
    assert retention(core, places, for_ever) == 0
    assert places.log_file(execution_id).exists()
    assert (places.workdir(execution_id) / "out.txt").exists()
    assert session_status(core, session_id) is SessionStatus.ENDED


def test_the_audit_trail_and_idempotency_keys_go_in_their_time(
    core: Core, places: StoragePaths
) -> None:
    request = SubmitRequest(task_id=core.task, idempotency=Idempotency("key", "fingerprint"))
    first = core.submit(core.actor, request).execution_id
    pass_days(core, places, 4)
    retention(core, places)
    assert core.submit(core.actor, request).execution_id == first
    pass_days(core, places, 2)
    assert retention(core, places) == 1
    assert core.submit(core.actor, request).execution_id != first
    entries = "SELECT count(*) FROM audit_logs"
    pass_days(core, places, 41)
    with core.database.autocommit() as connection:
        before = connection.execute(text(entries)).scalar_one()
        assert before > 0
    retention(core, places, replace(POLICY, idempotency_keys=0))
    with core.database.autocommit() as connection:
        assert connection.execute(text(entries)).scalar_one() < before


def test_only_one_keeper_deletes_rows_at_a_time(core: Core, places: StoragePaths) -> None:
    execution_id = completed(core, places)
    pass_days(core, places, 31)
    with core.database.transaction() as connection:
        connection.execute(text(f"SELECT {AdvisoryLock.RETENTION.taken}"))
        retention(core, places)
        assert count(core, "executions", execution_id) == 1
    assert retention(core, places) > 0


def unremovable(monkeypatch: pytest.MonkeyPatch) -> set[Path]:
    """Return directories that can't be removed, as on a mount that has become read-only."""
    stuck = set[Path]()
    monkeypatch.setattr(
        retaining, "remove_tree", lambda path: path not in stuck and remove_tree(path)
    )
    return stuck


def test_what_can_t_be_removed_blocks_nothing_that_is_younger(
    core: Core, places: StoragePaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More than a batch of them."""
    stuck = [completed(core, places) for _ in range(5)]
    young = [completed(core, places) for _ in range(3)]
    kept = unremovable(monkeypatch)
    kept.update(places.workdir(each) for each in stuck)
    pass_days(core, places, 31)
    with capture_logs() as logs:
        retention(core, places, replace(POLICY, files=0))
    assert [count(core, "executions", each) for each in young] == [0] * 3
    assert [count(core, "executions", each) for each in stuck] == [1] * 5
    (line,) = [each for each in logs if each["event"] == "retention.files_stay"]
    assert (line["kind"], line["count"]) == ("executions", 5)
    kept.clear()
    retention(core, places)
    assert [count(core, "executions", each) for each in stuck] == [0] * 5


def test_sessions_that_can_t_be_removed_block_no_others(
    core: Core, places: StoragePaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = [with_session(core, places) for _ in range(6)]
    unremovable(monkeypatch).update(places.session(each) for each in made[:4])
    pass_days(core, places, 21)
    retention(core, places)
    assert [places.session(each).exists() for each in made] == [True] * 4 + [False] * 2


def remember_a_key(core: Core) -> None:
    request = SubmitRequest(task_id=core.task, idempotency=Idempotency("key", "fingerprint"))
    core.submit(core.actor, request)


def test_a_log_file_that_can_t_be_removed_stops_nothing_else(
    core: Core, places: StoragePaths
) -> None:
    stuck, other = completed(core, places), completed(core, places)
    remember_a_key(core)
    places.log_file(stuck).unlink()
    places.log_file(stuck).mkdir()  # no file, so that nobody can unlink it
    pass_days(core, places, 41)
    retention(core, places)
    assert count(core, "executions", other) == 0
    assert count(core, "executions", stuck) == 1
    assert core.count("idempotency_keys") == 0, "the steps after that were done"


def test_a_step_that_fails_stops_no_other(core: Core, places: StoragePaths) -> None:
    execution_id = completed(core, places)
    remember_a_key(core)
    pass_days(core, places, 41)
    core.execute("ALTER TABLE sessions RENAME TO sessions_away")
    try:
        retention(core, places)
    finally:
        core.execute("ALTER TABLE sessions_away RENAME TO sessions")
    assert count(core, "executions", execution_id) == 0
    assert core.count("idempotency_keys") == 0
