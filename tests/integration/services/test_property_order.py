"""What users give keeps the order of its properties: agents and templates see it."""

import asyncio
import json

import pytest
from sqlalchemy import text

from celeriac.db import sessions
from celeriac.db.executions import calls, leases
from celeriac.db.executions.leases import PendingWrites
from celeriac.domain.approvals import Answer
from celeriac.domain.executions.calls import CallKind, NewCall
from celeriac.domain.executions.events import EventType, NewEvent
from celeriac.domain.executions.model import Completed, Failed, Failure, SubmitRequest
from celeriac.kit.json_types import JsonObject, JsonValue
from celeriac.services.schedules.start import Target
from celeriac.services.sessions import AttemptSession, SessionStore
from tests.support.asking import Asking, a_question
from tests.support.core import Core
from tests.support.schedules import ScheduleDesk
from tests.support.workflows import Flows

VALUE: JsonObject = {"zebra": 1, "b": {"y": [{"d": 1, "c": 2}], "x": None}, "aa": 1.0, "a": "é"}
TEXT = '{"zebra":1,"b":{"y":[{"d":1,"c":2}],"x":null},"aa":1.0,"a":"é"}'


def ordered(value: JsonValue) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def test_of_variables_and_results_of_executions(core: Core) -> None:
    request = SubmitRequest(task_id=core.task, variables=VALUE)
    execution_id = core.submit(core.actor, request).execution_id
    assert ordered(core.get(execution_id).variables) == TEXT
    claim = core.claim(core.message(execution_id))
    assert claim is not None
    (following,) = core.pending_many([VALUE])
    finished = core.finish(claim, Completed(VALUE), (), core.next_claim())
    assert ordered(claim.variables) == TEXT
    assert ordered(core.get(execution_id).result) == TEXT
    assert finished.claim is not None, following
    assert ordered(finished.claim.variables) == TEXT


def test_of_inputs_and_results_of_workflows(flows: Flows) -> None:
    seen: list[str] = []

    def work(_task: str, variables: JsonObject) -> JsonValue:
        seen.append(ordered(variables["given"]))
        return variables["given"]

    steps = {
        "first": {"task": "a", "with": {"given": "${{ input.value }}"}},
        "second": {"task": "b", "with": {"given": "${{ steps.first.result }}"}},
        "each": {
            "task": "c", "map": "[input.value, steps.second.result]",
            "with": {"given": "${{ item }}"},
        },
    }  # fmt: skip
    ran = flows.run(
        steps, work, input={"value": "object"}, returns="${{ steps.each.results[1] }}",
        given={"value": VALUE},
    )  # fmt: skip
    assert seen == [TEXT] * 4
    assert ordered(ran.run.input) == f'{{"value":{TEXT}}}'
    assert ordered(ran.result) == TEXT


def test_of_inputs_of_schedules(desk: ScheduleDesk) -> None:
    made = desk.add(target=Target(desk.core.task, None, VALUE))
    assert ordered(desk.get(made).input) == TEXT
    desk.pass_time(3_600)
    desk.turn()
    (fire,) = desk.fires(made)
    assert fire.execution_id is not None
    assert ordered(desk.core.get(fire.execution_id).variables) == TEXT


@pytest.fixture
def asking(core: Core) -> Asking:
    return Asking(core)


def test_of_answers_and_what_is_asked(asking: Asking) -> None:
    execution_id = asking.parked(a_question(arguments=VALUE), a_question(key="b", arguments={}))
    events = asking.core.events(execution_id)
    asked = [each.data for each in events if each.type is EventType.APPROVAL_ASKED]
    assert ordered(asked[0]["arguments"]) == TEXT
    assert "arguments" not in asked[1]
    assert {*asked[1], "arguments"} == {*asked[0]}
    execution_id = asking.parked()
    answered = asking.answer(execution_id, Answer(approved=True, value=VALUE))
    assert ordered(answered.value) == TEXT


def test_of_what_agents_emit_and_keep_in_sessions(core: Core) -> None:
    claim = core.running()
    event = NewEvent(EventType.CUSTOM, ordered({"name": "found", "data": VALUE}))
    failure = Failure("agent_failed", "it failed", {"traceback": "", **VALUE})
    with core.database.autocommit() as connection:
        leases.store_batch(connection, [PendingWrites(claim.lease, [event], number=1)])
    session = AttemptSession(
        SessionStore(core.database), claim.lease, runner="llm", given=None, forks=False
    )
    session_id = asyncio.run(session.save(state=VALUE))
    core.end(claim, Failed(failure))
    emitted, ended = core.events(claim.lease.execution_id)[-2:]
    assert ordered(emitted.data) == f'{{"name":"found","data":{TEXT}}}'
    assert ended.type is EventType.FAILED
    details = core.get(claim.lease.execution_id).error_details
    assert ordered(details) == f'{{"traceback":"",{TEXT[1:]}'
    with core.database.autocommit() as connection:
        found = sessions.load(connection, session_id)
    assert found is not None
    assert ordered(found.state) == TEXT


def test_of_the_arguments_of_celery_callbacks(core: Core) -> None:
    message = f'{{"request":{{"stamps":{{"s":["x"]}}}},"callbacks":[{TEXT}]}}'
    with core.database.transaction() as connection:
        calls.add(
            connection, core.actor, NewCall("id", "task", message), kind=CallKind.EXECUTION,
            subject_id=core.task, pending=1,
        )  # fmt: skip
        assert calls.stamped(connection, {"s": ["y"], "t": ["x"]}) == []
        assert calls.stamped(connection, {"s": ["x"]}) == ["id"]
    with core.database.autocommit() as connection:
        (stored,) = connection.execute(text("SELECT message FROM celery_calls")).scalars()
    assert ordered(stored) == message
