"""Failures in groups: every way to fail is in one, counted once; people say what they mean."""

from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import text

from celeriac.db import failures, rollups
from celeriac.domain.accounts import Role
from celeriac.domain.errors import (
    ConflictError,
    ForbiddenError,
    InvalidInputError,
    NotFoundError,
)
from celeriac.domain.executions.model import (
    Completed,
    ExecutionFilter,
    Failed,
    Failure,
    Retry,
)
from celeriac.domain.executions.states import TRANSITIONS, Status
from celeriac.domain.failure_states import FailureState
from celeriac.domain.failures import FailureChange, FailureFilter, FailureGroup
from celeriac.services.executions.queries import Queries
from celeriac.services.failures import Failures
from celeriac.services.operations.rollups import Rollups
from tests.support.catalog import make_actor, make_colleague
from tests.support.core import Core
from tests.support.ends import WAYS, arrange
from tests.support.retention import POLICY, places_in, retention
from tests.support.rows_read import rows_read
from tests.support.together import together


def of(message: str, kind: str = "LookupError") -> Failed:
    return Failed(Failure("agent_failed", message, {"type": kind, "attempt": 1}))


def fold(core: Core) -> int:
    return Rollups(core.database).fold(1_000)


def fail(core: Core, message: str = "no lead 7", kind: str = "LookupError") -> UUID:
    """Return an execution that has failed."""
    claim = core.running()
    core.end(claim, of(message, kind))
    return claim.lease.execution_id


def groups(core: Core, **wanted: Any) -> list[FailureGroup]:
    filter_ = FailureFilter(workspace_id=core.actor.workspace_id, **wanted)
    return list(Failures(core.database).find(core.actor, filter_).items)


def change(core: Core, group: FailureGroup, **wanted: Any) -> FailureGroup:
    return Failures(core.database).change(core.actor, group.id, FailureChange(**wanted))


@pytest.mark.requirement("F19")
@pytest.mark.parametrize("name", WAYS)
def test_every_failure_is_in_a_group_and_nothing_else_is(core: Core, name: str) -> None:
    way = WAYS[name]
    claim, _ = arrange(core, way.source)
    way.end(core, claim)
    fold(core)
    found = groups(core)
    if TRANSITIONS[way.transition][1] is not Status.FAILED:
        assert found == []
        return
    execution = core.get(claim.lease.execution_id)
    (group,) = found
    assert (group.task_id, group.task_name) == (core.task, execution.task_name)
    assert (group.failures, group.retried_completed, group.state) == (1, 0, FailureState.NEW)
    assert group.first_execution_id == group.last_execution_id == execution.id
    assert (group.error_code, group.error_type) == (execution.error_code, execution.error_type)
    assert group.first_seen_at == execution.completed_at


@pytest.mark.requirement("F19")
def test_failures_with_the_same_cause_are_counted_together(core: Core) -> None:
    retried = core.running()
    core.end(retried, Retry(Failure("agent_failed", "no lead 0"), 60.0))
    first = fail(core, "no lead 1")
    assert fold(core) == 1
    second = fail(core, "no lead 22")
    other = fail(core, "no lead 1", "KeyError")
    fold(core)
    lone, both = groups(core)
    assert (lone.first_execution_id, lone.failures) == (other, 1)
    assert lone.title == "KeyError: no lead 1"
    assert (both.first_execution_id, both.last_execution_id) == (first, second)
    assert (both.failures, both.title) == (2, "LookupError: no lead 22")
    assert both.first_seen_at < both.last_seen_at
    queries = Queries(core.database)
    page = queries.executions(core.actor, ExecutionFilter(failure=both.key), cursor=None, limit=10)
    assert [each.id for each in page.items] == [second, first]


@pytest.mark.requirement("F19")
def test_only_a_failure_after_the_resolution_is_a_regression(core: Core) -> None:
    fail(core)
    fold(core)
    (group,) = groups(core)
    late = core.running()
    core.end(late, of("no lead 8"))  # appended before, and folded after the resolution
    resolved = change(core, group, state=FailureState.RESOLVED, note="mended in 2.1")
    assert (resolved.version, resolved.resolved_at is not None) == (2, True)
    fold(core)
    (group,) = groups(core, states=[FailureState.RESOLVED])
    assert (group.failures, group.note) == (2, "mended in 2.1")
    fail(core)
    fold(core)
    (group,) = groups(core, states=[FailureState.REGRESSED, FailureState.NEW])
    assert (group.failures, group.version) == (3, 3)
    with pytest.raises(ConflictError, match="version 3, not 2"):
        change(core, group, state=FailureState.KNOWN, version=2)
    muted = change(core, group, state=FailureState.MUTED, version=3)
    fail(core)
    fold(core)
    (group,) = groups(core)
    assert (group.state, group.failures, muted.resolved_at) == (FailureState.MUTED, 4, None)


@pytest.mark.requirement("F19")
def test_a_repeat_that_completes_addresses_a_failure_once(core: Core) -> None:
    failed = fail(core)

    def repeat() -> None:
        core.execute(
            "UPDATE executions SET origin_id = :origin WHERE id = :id",
            origin=failed,
            id=(claim := core.running()).lease.execution_id,
        )
        core.end(claim, Completed(1))

    repeat()
    fold(core)  # with its failure
    assert [(each.failures, each.retried_completed) for each in groups(core)] == [(1, 1)]
    repeat()
    fold(core)
    (group,) = groups(core)
    assert (group.failures, group.retried_completed, group.version) == (1, 1, 1)
    failed = fail(core)
    fold(core)
    repeat()
    repeat()
    fold(core)  # both at once, after it
    (group,) = groups(core)
    assert (group.failures, group.retried_completed) == (2, 2)
    core.execute("DELETE FROM failure_groups")
    failed = fail(core)
    core.execute("DELETE FROM execution_ends")
    repeat()
    fold(core)
    assert groups(core) == [], "a repeat makes no group"


def test_folds_at_the_same_time_count_each_failure_once(core: Core) -> None:
    for number in range(30):
        fail(core, f"no lead {number}", ("LookupError", "KeyError", "ValueError")[number % 3])

    def some() -> None:
        with core.database.autocommit() as connection:
            while rollups.fold(connection, limit=2):
                pass

    together([some] * 4)
    assert [each.failures for each in groups(core)] == [10, 10, 10]


def test_a_change_is_checked_and_audited(core: Core) -> None:
    fail(core)
    fold(core)
    (group,) = groups(core)
    service = Failures(core.database)
    for state in (FailureState.NEW, FailureState.REGRESSED):
        with pytest.raises(InvalidInputError, match="state must be one of known, resolved, muted"):
            change(core, group, state=state)
    with pytest.raises(InvalidInputError, match="note must have at most 2,000"):
        change(core, group, note="x" * 2_001)
    viewer = make_colleague(core.database, core.actor, Role.VIEWER)
    with pytest.raises(ForbiddenError):
        service.change(viewer, group.id, FailureChange(state=FailureState.MUTED))
    stranger = make_actor(core.database)
    with pytest.raises(NotFoundError):
        service.change(stranger, group.id, FailureChange(state=FailureState.MUTED))
    with pytest.raises(NotFoundError):
        service.get(stranger, group.id)
    with pytest.raises(NotFoundError):
        service.get(core.actor, uuid4())
    assert service.get(viewer, group.id) == group
    change(core, group, note="a\0b")
    change(core, group, note="a\ufffdb")
    with core.database.autocommit() as connection:
        query = "SELECT resource_id, details FROM audit_logs WHERE action = 'failure_group.change'"
        (entry,) = connection.execute(text(query)).all()
    assert entry.resource_id == str(group.id)
    assert entry.details["note"] == {"before": "", "after": "a\ufffdb"}


def test_a_group_goes_with_the_retention_of_executions(core: Core, tmp_path: Path) -> None:
    fail(core)
    fail(core, kind="KeyError")
    fold(core)
    query = "UPDATE failure_groups SET last_seen_at = now() - make_interval(days => :days)"
    core.execute(f"{query} WHERE error_type = 'KeyError'", days=POLICY.executions + 1)
    core.execute(f"{query} WHERE error_type <> 'KeyError'", days=POLICY.executions - 1)
    retention(core, places_in(tmp_path))
    assert [each.error_type for each in groups(core)] == ["LookupError"]


_MANY = """
INSERT INTO failure_groups (id, workspace_id, task_id, first_execution_id, last_execution_id,
                            state, fingerprint)
SELECT celeriac_uuid7(), CASE WHEN n % 2 = 0 THEN CAST(:workspace AS uuid)
                              ELSE gen_random_uuid() END,
       CASE WHEN n % 100 = 0 THEN CAST(:task AS uuid) ELSE gen_random_uuid() END, id, id,
       CASE WHEN n % 1000 = 0 THEN 'new' ELSE 'resolved' END, '1:' || n
FROM generate_series(1, 20000) AS n, LATERAL (SELECT celeriac_uuid7() AS id WHERE n > 0) AS each
"""


def test_lists_read_only_their_page_however_many_groups_there_are(core: Core) -> None:
    core.execute(_MANY, workspace=core.actor.workspace_id, task=core.task)
    core.execute("ANALYZE failure_groups")
    cases: list[dict[str, Any]] = [
        {},
        {"states": [FailureState.NEW, FailureState.REGRESSED]},
        {"task_id": core.task},
    ]
    for wanted in cases:
        filter_ = FailureFilter(workspace_id=core.actor.workspace_id, **wanted)
        find = partial(failures.find, wanted=filter_, before=None, limit=51)
        for plan, number in rows_read(core.database, find, "failure_groups"):
            assert number <= 500, plan
        found = groups(core, **wanted)
        assert len(found) == (20 if "states" in wanted else 50)
    service, cursor = Failures(core.database), None
    wanted_all = FailureFilter(workspace_id=core.actor.workspace_id, task_id=core.task)
    pages: list[int] = []
    while not pages or cursor:
        page = service.find(core.actor, wanted_all, cursor=cursor, limit=90)
        pages.append(len(page.items))
        cursor = page.next_cursor
    assert pages == [90, 90, 20]
