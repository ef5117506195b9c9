"""Every way to end an execution leaves the same traces."""

from uuid import UUID, uuid4

import pytest

from celeriac.db import sessions
from celeriac.db.executions.guards import with_guards
from celeriac.domain.executions.model import Completed
from celeriac.domain.executions.states import TRANSITIONS, Status, Transition
from celeriac.domain.sessions import Session, SessionStatus
from celeriac.kit.ids import uuid7_at
from tests.support.core import LEASE_SECONDS, Core
from tests.support.ends import (
    GOING_ON,
    WAYS,
    Way,
    arrange,
    deliveries,
    endpoint,
    rows,
)


def test_every_way_to_end_is_tested() -> None:
    ends = {
        (transition, source)
        for transition, (sources, target) in TRANSITIONS.items()
        if target.terminal
        for source in sources
    }
    assert {(way.transition, way.source) for way in WAYS.values()} == ends


def session(core: Core, session_id: UUID) -> Session:
    with core.database.autocommit() as connection:
        found = sessions.get(connection, session_id, workspace=None)
    assert found is not None
    return found


def open_questions(core: Core) -> list[str]:
    query = "SELECT key FROM approvals WHERE status = 'open' ORDER BY key"
    return [row[0] for row in rows(core, query)]


@pytest.mark.requirement("A17")
@pytest.mark.parametrize("name", WAYS)
def test_an_end_leaves_its_traces(core: Core, name: str) -> None:
    way = WAYS[name]
    target = TRANSITIONS[way.transition][1]
    informed = endpoint(core)
    endpoint(core, active=False)
    endpoint(core, workspace=uuid4())
    endpoint(core, ["budget.spent"])
    claim, session_id = arrange(core, way.source)
    execution_id = claim.lease.execution_id

    way.end(core, claim)

    execution = core.get(execution_id)
    assert execution.status is target
    assert execution.completed_at is not None
    assert (execution.waiting_for, execution.waiting_until) == (None, None)
    assert core.event_types(execution_id)[-1] == target
    ended = session(core, session_id)
    if target is Status.FAILED:
        assert ended.status is SessionStatus.FAILED
        assert ended.error_code == execution.error_code
        assert ended.error_message == execution.error_message
    else:
        assert (ended.status, ended.error_code) == (SessionStatus.ENDED, None)
    assert open_questions(core) == []
    statuses = dict(rows(core, "SELECT key, status FROM approvals"))
    assert statuses.pop("mail") == "withdrawn"
    expired = way.transition is Transition.EXPIRE
    assert set(statuses.values()) <= {"expired" if expired else "withdrawn"}
    assert deliveries(core) == [(informed, execution_id, f"execution.{target}")]
    noted = rows(core, "SELECT workspace_id, task_id, queue, outcome FROM execution_ends")
    assert noted == [(core.actor.workspace_id, core.task, execution.queue, target)]
    assert_audited(core, execution_id, way)
    core.assert_consistent()


def assert_audited(core: Core, execution_id: UUID, way: Way) -> None:
    query = """SELECT actor, request_id, details FROM audit_logs
               WHERE action = 'execution.fail' AND resource_type = 'execution'
                 AND resource_id = :id"""
    entries = rows(core, query, id=str(execution_id))
    if way.program is None:
        assert entries == []
        return
    execution = core.get(execution_id)
    ((actor, request_id, details),) = entries
    assert (actor, request_id) == (way.program, execution.request_id)
    expected = {
        "code": execution.error_code,
        "message": execution.error_message,
        "attempt": execution.attempt,
    }
    if way.transition is Transition.EXPIRE:
        ((asked,),) = rows(core, "SELECT id FROM approvals WHERE key = 'pay'")
        expected["approval_id"] = str(asked)
    assert details == expected


@pytest.mark.parametrize("name", GOING_ON)
def test_what_goes_on_keeps_its_session_and_its_questions(core: Core, name: str) -> None:
    endpoint(core)
    claim, session_id = arrange(core, Status.RUNNING)

    GOING_ON[name](core, claim)

    assert not core.status(claim.lease.execution_id).terminal
    assert session(core, session_id).status is SessionStatus.ACTIVE
    assert "mail" in open_questions(core)
    assert deliveries(core) == []
    assert core.count("execution_ends") == 0
    assert rows(core, "SELECT id FROM audit_logs WHERE action = 'execution.fail'") == []
    core.assert_consistent()


def test_several_that_end_at_once_are_told_apart(core: Core) -> None:
    stranger = Core(core.database)
    wants_all, wants_failures = endpoint(core), endpoint(core, ["execution.failed"])
    theirs = endpoint(stranger)
    completed, failed = arrange(core, Status.RUNNING), arrange(core, Status.RUNNING)
    cancelled, other = arrange(core, Status.RUNNING), arrange(stranger, Status.RUNNING)
    core.end(completed[0], Completed(1))
    core.cancel(core.actor, [cancelled[0].lease.execution_id])
    core.execute("UPDATE executions SET max_crashes = 1")
    core.pass_time(LEASE_SECONDS + 1)

    assert core.rescue() == 3

    a, b, c, d = (each[0].lease.execution_id for each in (completed, failed, cancelled, other))
    assert sorted(deliveries(core)) == sorted(
        [
            (wants_all, a, "execution.completed"),
            (wants_all, b, "execution.failed"),
            (wants_failures, b, "execution.failed"),
            (wants_all, c, "execution.cancelled"),
            (theirs, d, "execution.failed"),
        ]
    )
    found = [session(core, each[1]).status for each in (completed, failed, cancelled, other)]
    ended, broken = SessionStatus.ENDED, SessionStatus.FAILED
    assert found == [ended, broken, ended, broken]
    core.assert_consistent()


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE executions e SET status = {end_to} RETURNING {ended_columns}",
        "WITH done AS (UPDATE executions SET status = {end_to} RETURNING *){ended} SELECT",
    ],
)
def test_a_statement_that_forgets_what_belongs_to_an_end_is_refused(statement: str) -> None:
    with pytest.raises(ValueError, match="ends executions without"):
        with_guards(statement, end=Transition.COMPLETE)


def test_an_id_of_the_database_is_a_uuid_of_version_7(core: Core) -> None:
    query = """SELECT clock_timestamp(), celeriac_uuid7(), clock_timestamp()
               FROM generate_series(1, 100)"""
    found = rows(core, query)
    for before, made, after in found:
        assert (made.version, made.variant) == (7, uuid4().variant)
        assert uuid7_at(before) <= made
        assert made.int >> 80 <= uuid7_at(after).int >> 80
    assert len({made for _, made, _ in found}) == 100
