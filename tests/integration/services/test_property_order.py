"""What users give keeps the order of its properties: agents and templates see it."""

import json

import pytest

from celeriac.domain.approvals import Answer
from celeriac.domain.executions.model import Completed, SubmitRequest
from celeriac.kit.json_types import JsonObject, JsonValue
from celeriac.services.schedules.start import Target
from tests.support.asking import Asking
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


def test_of_answers(asking: Asking) -> None:
    execution_id = asking.parked()
    answered = asking.answer(execution_id, Answer(approved=True, value=VALUE))
    assert ordered(answered.value) == TEXT
