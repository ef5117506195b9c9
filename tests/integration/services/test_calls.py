"""Celery tasks that stand for executions: stored once, due with the last end, ended once."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from celeriac.db import accounts, retention
from celeriac.db.executions import calls
from celeriac.domain.accounts import Role
from celeriac.domain.errors import CeleryCallError, ForbiddenError, NotFoundError
from celeriac.domain.executions.calls import (
    Arguments,
    Call,
    CallOutcome,
    NewCall,
    Raised,
    Returned,
    Revoked,
)
from celeriac.domain.executions.model import Completed, Failed, Failure
from celeriac.domain.executions.states import TRANSITIONS, Status
from celeriac.kit.json_types import dumps
from celeriac.services.catalog.tasks import Tasks
from celeriac.services.executions.calls import (
    MOST_FAULTS,
    CallIdentity,
    EndCalls,
    RevokeCalls,
    StartCalls,
)
from tests.support.catalog import make_colleague
from tests.support.core import Core
from tests.support.ends import GOING_ON, WAYS, arrange, rows

CALL = NewCall("a-celery-id", "celeriac.tasks.execution.execute_agent", '{"request": {}}')


@dataclass
class Ending:
    """What ends Celery tasks, in memory; fails while it is `away`."""

    ended: list[tuple[str, CallOutcome]] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    away: bool = False
    broken: bool = False
    """Whether the callbacks of tasks that succeed can't be sent."""

    def end(self, call: Call, outcome: CallOutcome) -> None:
        if self.away:
            raise ConnectionError("the broker is away")
        if self.broken and isinstance(outcome, Returned):
            raise CeleryCallError("TypeError: 'NoneType' object is not iterable")
        self.ended.append((call.celery_task_id, outcome))

    def keep(self, found: Sequence[Call]) -> None:
        self.kept += [call.celery_task_id for call in found]


@pytest.fixture
def ending() -> Ending:
    return Ending()


@pytest.fixture
def end_calls(core: Core, ending: Ending) -> EndCalls:
    return EndCalls(core.database, ending)


def identity(core: Core, user: str | None, workspace: str | None = None) -> CallIdentity:
    return CallIdentity(core.database, user=user, workspace=workspace)


def no_run(*_: object) -> Any:
    raise AssertionError("no workflow is run here")


@pytest.fixture
def start(core: Core) -> StartCalls:
    known = identity(core, core.actor.name)
    tasks = Tasks(core.database)
    return StartCalls(core.database, tasks, core.submit, core.dispatch, known, start_run=no_run)


def arguments(core: Core, *variables: Any) -> Arguments:
    return Arguments(str(core.task), list(variables) or [{}])


def subject(core: Core, celery_task_id: str = CALL.celery_task_id) -> UUID:
    with core.database.autocommit() as connection:
        found = calls.find(connection, celery_task_id)
    assert found is not None
    return found.subject_id


def complete(core: Core, execution_id: UUID, result: Any = None) -> None:
    claim = core.claim(core.message(execution_id))
    assert claim is not None
    core.end(claim, Completed(result))


def test_a_second_start_changes_nothing(core: Core, start: StartCalls) -> None:
    assert not start.is_known(CALL.celery_task_id)
    for _ in range(2):
        start.execution(CALL, arguments(core, {"a": 1}))
    assert start.is_known(CALL.celery_task_id)
    (only,) = rows(core, "SELECT id, trigger_type, request_id FROM executions")
    assert tuple(only) == (subject(core), "celery", CALL.celery_task_id)
    assert core.get(only.id).variables == {"a": 1}


def test_what_can_not_start_stores_nothing(core: Core, start: StartCalls) -> None:
    with pytest.raises(NotFoundError):
        start.execution(CALL, replace(arguments(core), name="nothing"))
    assert not start.is_known(CALL.celery_task_id)


def test_a_task_ends_with_its_execution(
    core: Core, start: StartCalls, end_calls: EndCalls, ending: Ending
) -> None:
    start.execution(CALL, arguments(core))
    assert end_calls() == 0, "nothing has ended"
    complete(core, subject(core), {"done": True})

    assert (end_calls(), end_calls()) == (1, 0)

    assert ending.ended == [(CALL.celery_task_id, Returned({"done": True}))]
    with core.database.autocommit() as connection:
        found = calls.find(connection, CALL.celery_task_id)
    assert found is not None
    assert found.message is None, "what nobody needs any more is not kept"


def test_a_batch_ends_with_its_last_execution(
    core: Core, start: StartCalls, end_calls: EndCalls, ending: Ending
) -> None:
    assert start.batch(CALL, arguments(core, {"n": 1}, {"n": 2}, {"n": 3})) is None
    assert start.batch(CALL, arguments(core, {"n": 1}, {"n": 2}, {"n": 3})) is None
    ids = [row[0] for row in rows(core, "SELECT id FROM executions ORDER BY id")]
    assert len(ids) == 3
    core.dispatch.send_due()
    claim = core.claim(core.message(ids[2]))
    assert claim is not None
    core.end(claim, Failed(Failure("agent_failed", "no", {})))
    core.cancel(core.actor, [ids[1]])
    assert end_calls() == 0, "one runs still"
    core.assert_consistent()
    complete(core, ids[0], "first")

    assert end_calls() == 1

    ((_, outcome),) = ending.ended
    assert isinstance(outcome, Returned)
    assert outcome.value["results"] == ["first", None, None]
    assert [(each["index"], each["code"]) for each in outcome.value["errors"]] == [
        (1, "cancelled"),
        (2, "agent_failed"),
    ]


def test_a_batch_with_too_large_results_says_so(
    core: Core,
    start: StartCalls,
    end_calls: EndCalls,
    ending: Ending,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """They are compared with the limit by size, in pages, before they are read."""
    monkeypatch.setattr("celeriac.services.executions.calls.MAX_RESULTS_BYTES", 6_000)
    monkeypatch.setattr("celeriac.db.executions.calls._BATCH_PAGE", 2)
    assert start.batch(CALL, arguments(core, *({"n": n} for n in range(5)))) is None
    for (execution_id,) in rows(core, "SELECT id FROM executions ORDER BY id"):
        complete(core, execution_id, "x" * 1_200)

    assert end_calls() == 1
    core.execute("UPDATE celery_calls SET ended_at = NULL, due_at = now()")
    monkeypatch.setattr("celeriac.services.executions.calls.MAX_RESULTS_BYTES", 7_000)
    assert end_calls() == 1

    (_, refused), (_, returned) = ending.ended
    assert isinstance(refused, Raised)
    assert refused.message.startswith("results_too_large: ")
    assert isinstance(returned, Returned)
    assert returned.value["results"] == ["x" * 1_200] * 5


def test_an_empty_batch_ends_at_once(core: Core, start: StartCalls) -> None:
    outcome = start.batch(CALL, Arguments(str(core.task), []))
    assert outcome == Returned({"batch_id": None, "results": [], "errors": []})
    assert not start.is_known(CALL.celery_task_id)


@pytest.mark.parametrize("name", [*WAYS, *GOING_ON])
def test_every_end_makes_the_task_due_and_nothing_else_does(core: Core, name: str) -> None:
    way = WAYS.get(name)
    claim, _ = arrange(core, way.source if way else Status.RUNNING)
    core.execute("UPDATE executions SET trigger_type = 'celery'")
    core.execute(
        "INSERT INTO celery_calls"
        " (id, task_name, kind, subject_id, workspace_id, owner_id, pending, message)"
        " SELECT 'c', 't', 'execution', id, workspace_id, owner_id, 1, '{}' FROM executions"
    )

    (way.end if way else GOING_ON[name])(core, claim)

    ((pending, due),) = rows(core, "SELECT pending, due_at IS NOT NULL FROM celery_calls")
    assert (pending, due) == ((0, True) if way else (1, False))
    with core.database.autocommit() as connection:
        taken = calls.take_due(connection, limit=10, seconds=60)
        assert len(taken) == (1 if way else 0)
        for call in taken:
            found = calls.executions(connection, call, most_bytes=1)
            assert found is not None
            (execution,) = found
            assert execution.status is TRANSITIONS[way.transition][1] if way else None


def test_what_can_not_be_ended_is_tried_again(
    core: Core, start: StartCalls, end_calls: EndCalls, ending: Ending
) -> None:
    start.execution(CALL, arguments(core))
    core.cancel(core.actor, [subject(core)])
    ending.away = True
    assert (end_calls(), end_calls()) == (1, 0), "after a pause"
    ending.away = False
    core.execute("UPDATE celery_calls SET due_at = now()")
    assert end_calls() == 1
    assert ending.ended == [
        (CALL.celery_task_id, Revoked(f"The execution {subject(core)} was cancelled."))
    ]


def test_what_nobody_can_end_is_given_up(
    core: Core, start: StartCalls, end_calls: EndCalls, ending: Ending
) -> None:
    start.execution(CALL, arguments(core))
    complete(core, subject(core))
    ending.broken = True
    for tries in range(1, MOST_FAULTS + 1):
        assert not core.count("celery_calls WHERE ended_at IS NOT NULL"), tries
        core.execute("UPDATE celery_calls SET due_at = now()")
        assert end_calls() == 1
    assert [type(outcome) for _, outcome in ending.ended] == [Raised]
    assert core.count("celery_calls WHERE ended_at IS NOT NULL") == 1
    core.execute("UPDATE celery_calls SET due_at = NULL")
    assert end_calls() == 0


def test_a_task_of_a_dead_process_is_ended_by_another(
    core: Core, start: StartCalls, end_calls: EndCalls, ending: Ending
) -> None:
    start.execution(CALL, arguments(core))
    complete(core, subject(core))
    with core.database.autocommit() as connection:
        (taken,) = calls.take_due(connection, limit=10, seconds=60)
    assert end_calls() == 0, "somebody has it"
    core.execute("UPDATE celery_calls SET due_at = now()")
    assert end_calls() == 1
    with core.database.autocommit() as connection:
        calls.postpone(connection, taken, seconds=0)  # the dead one comes back
    assert end_calls() == 0
    assert len(ending.ended) == 1


def test_a_deleted_execution_fails_its_task(
    core: Core, start: StartCalls, end_calls: EndCalls, ending: Ending
) -> None:
    start.execution(CALL, arguments(core))
    complete(core, subject(core))
    core.execute("DELETE FROM executions")
    end_calls()
    assert [type(outcome) for _, outcome in ending.ended] == [Raised]


def test_revoking_cancels_what_has_not_ended(core: Core, start: StartCalls) -> None:
    start.batch(CALL, arguments(core, {}, {}))
    other = replace(CALL, celery_task_id="other")
    start.execution(other, arguments(core))
    revoke = RevokeCalls(core.database, core.cancel, no_run)

    assert revoke([CALL.celery_task_id, "unknown"]) == 2
    assert revoke([CALL.celery_task_id]) == 0

    assert core.status(subject(core, "other")) is not Status.CANCELLED
    by = rows(
        core, "SELECT DISTINCT cancel_requested_by FROM executions WHERE batch_id IS NOT NULL"
    )
    assert [row[0] for row in by] == ["celery revoke"]


def test_revoking_by_stamps_cancels_what_has_any_of_them(core: Core, start: StartCalls) -> None:
    stamps = [{"team": "a"}, {"team": ["b", "a"]}, {"team": ["b"]}, {"other": "a"}, None]
    for number, each in enumerate(stamps):
        message = dumps({"request": {} if each is None else {"stamps": each}})
        call = replace(CALL, celery_task_id=f"stamped-{number}", message=message)
        start.execution(call, arguments(core))
    revoke = RevokeCalls(core.database, core.cancel, no_run)

    assert revoke.stamped({"team": ["x", "a"], "more": ["b"]}) == 2
    assert revoke.stamped({"team": ["x"]}) == 0
    assert revoke.stamped({}) == 0

    cancelled = [
        core.status(subject(core, f"stamped-{number}")) is Status.CANCELLED for number in range(5)
    ]
    assert cancelled == [True, True, False, False, False]


def test_open_tasks_are_kept(
    core: Core, start: StartCalls, end_calls: EndCalls, ending: Ending
) -> None:
    for number in range(3):
        start.execution(replace(CALL, celery_task_id=f"c{number}"), arguments(core))
    complete(core, subject(core, "c1"))
    end_calls()
    assert end_calls.keep(older_than=60) == 0
    assert end_calls.keep(older_than=0) == 2
    assert ending.kept == ["c0", "c2"]


def test_ended_tasks_are_deleted_after_their_time(
    core: Core, start: StartCalls, end_calls: EndCalls
) -> None:
    for number in range(2):
        start.execution(replace(CALL, celery_task_id=f"c{number}"), arguments(core))
    complete(core, subject(core, "c1"))
    end_calls()
    with core.database.autocommit() as connection:
        assert retention.delete_calls(connection, days=1, limit=10) == 0
    core.execute("UPDATE celery_calls SET ended_at = ended_at - interval '2 days'")
    with core.database.autocommit() as connection:
        assert retention.delete_calls(connection, days=1, limit=10) == 1
    assert [row[0] for row in rows(core, "SELECT id FROM celery_calls")] == ["c0"]


def test_nobody_s_tasks_start_nothing(core: Core) -> None:
    with pytest.raises(ForbiddenError, match="set CELERIAC_CALLS_USER"):
        identity(core, None).actor("c")
    with pytest.raises(ForbiddenError, match="no such active user"):
        identity(core, "nobody").actor("c")


def test_a_disabled_user_s_tasks_start_nothing(core: Core) -> None:
    assert identity(core, core.actor.name).actor("c").user_id == core.actor.user_id
    with core.database.transaction() as connection:
        accounts.change_user(connection, core.actor.user_id, role=None, disabled=True)
    with pytest.raises(ForbiddenError, match="no such active user"):
        identity(core, core.actor.name).actor("c")


def test_the_user_must_be_an_operator_of_the_workspace(core: Core) -> None:
    viewer = make_colleague(core.database, core.actor, Role.VIEWER)
    place = core.actor.name  # the name of a personal workspace
    with pytest.raises(ForbiddenError, match="needs the role operator"):
        identity(core, viewer.name, place).actor("c")
    with pytest.raises(ForbiddenError, match="no member of the workspace"):
        identity(core, core.actor.name, viewer.name).actor("c")
    operator = make_colleague(core.database, core.actor)
    found = identity(core, operator.name, place).actor("c")
    assert (found.workspace_id, found.request_id) == (core.actor.workspace_id, "c")
    assert not found.administrator


def test_executions_expire_with_their_celery_task(
    core: Core, start: StartCalls, end_calls: EndCalls, ending: Ending
) -> None:
    at = datetime.now(UTC) + timedelta(seconds=60)
    start.execution(replace(CALL, expires_at=at), arguments(core))
    execution_id = subject(core)
    assert core.get(execution_id).expires_at == at
    core.pass_time(61)
    assert core.end_expired() == [execution_id]
    end_calls()
    ((_, outcome),) = ending.ended
    assert isinstance(outcome, Revoked)
