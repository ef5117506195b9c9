"""The `python` runner on real functions: arguments, results and reports."""

import os
from typing import Any

import pytest
from structlog.testing import capture_logs

from celeriac.domain.errors import (
    CeleriacError,
    OutputInvalidError,
    PermanentError,
    RetryableError,
    VariablesInvalidError,
)
from celeriac.domain.executions.events import EventType
from celeriac.domain.usage import ModelCall
from tests.support.run_context import RecordingContext, python_job
from tests.support.runners import PythonRunner

pytestmark = pytest.mark.anyio

TOLD: list[tuple[EventType, dict[str, Any]]] = [
    (EventType.CUSTOM, {"name": "greeted", "data": {"name": "Ada"}}),
    (
        EventType.LOG,
        {"level": "warning", "message": "hello", "source": "agent", "fields": {"name": "Ada"}},
    ),
]


async def test_typed_parameters_are_made_from_json_and_models_are_returned_as_json(
    runner: PythonRunner, context: RecordingContext
) -> None:
    job = python_job("score", lead={"company": "Acme", "size": "3"})

    outcome = await runner.run(job, context)

    lead = {"company": "Acme", "size": 3}
    assert outcome.result == {"company": "Acme", "score": 6, "lead": lead}


async def test_a_coroutine_runs_in_the_worker_and_reports_through_its_context(
    runner: PythonRunner, context: RecordingContext
) -> None:
    outcome = await runner.run(python_job("greet", name="Ada"), context)

    assert outcome.result == {"key": "e-1:mail", "prompt": "Do it.", "pid": os.getpid()}
    _assert_reported(context)
    assert context.events == TOLD


async def test_a_plain_function_runs_in_a_child_and_reports_the_same(
    runner: PythonRunner, context: RecordingContext
) -> None:
    outcome = await runner.run(python_job("report", environment=("SHOP_URL",)), context)

    result = outcome.result
    assert (result["key"], result["prompt"]) == ("e-1:mail", "Do it.")
    assert result["pid"] != os.getpid()
    assert result["cwd"] == str(context.workdir)
    assert result["session"], "the child leads a session of its own"
    assert result["core"] == [0, 0], "no core files"
    assert result["correlation"] == context.correlation
    assert result["environment"] == ["CELERIAC_CHILD", "LANG", "LC_TIME", "PATH", "SHOP_URL"]
    _assert_reported(context)
    broken = (EventType.LOG, {"level": "error", "message": "broken", "source": "shop"})
    assert context.events == [*TOLD, broken]


@pytest.mark.parametrize("function", ["read_results", "read_results_in_child"])
async def test_results_of_a_step_are_read_over_all_pages(
    runner: PythonRunner, context: RecordingContext, function: str
) -> None:
    context.results_of_steps["each"] = [1, None, {"a": 3}, "four", 5]

    outcome = await runner.run(python_job(function, step="each"), context)

    assert outcome.result == [1, None, {"a": 3}, "four", 5]


@pytest.mark.parametrize("function", ["read_results", "read_results_in_child"])
@pytest.mark.parametrize(
    ("step", "fault"),
    [
        ("none", "has no step 'none'"),
        ({"count": 3}, "needs the id of a step, or what steps.ID.results gives"),
        ({"results_of": {"run": "x", "step": "each"}}, "run"),
        ("", "step"),
    ],
)
async def test_results_that_can_t_be_read_are_an_error_that_says_why(
    runner: PythonRunner, context: RecordingContext, function: str, step: Any, fault: str
) -> None:
    with pytest.raises(CeleriacError, match=fault):
        await runner.run(python_job(function, step=step), context)


@pytest.mark.requirement("F19")
@pytest.mark.parametrize("function", ["label", "label_in_child"])
async def test_an_agent_labels_its_execution_and_can_go_on_after_a_refusal(
    runner: PythonRunner, context: RecordingContext, function: str
) -> None:
    outcome = await runner.run(python_job(function, labels={"no key": "x"}), context)
    assert "labels.no key: a label's key begins with a letter" in outcome.result
    assert context.labels == {"language": "en"}

    changes = {"language": None, "tone": "calm"}
    outcome = await runner.run(python_job(function, labels=changes), context)
    assert outcome.result == context.labels == {"tone": "calm"}


def _assert_reported(context: RecordingContext) -> None:
    assert context.steps == [(1, 2, "half")]
    assert context.deltas == [{"text": "he"}]
    assert context.calls == [ModelCall(provider="p", model="m", input_tokens=3, output_tokens=4)]


async def test_what_is_printed_becomes_log_lines_and_harms_nothing(
    runner: PythonRunner, context: RecordingContext
) -> None:
    outcome = await runner.run(python_job("print_everywhere", lines=2000), context)

    assert outcome.result == "", "stdin is empty, and the forged result was not believed"
    lines = [str(line["message"]) for line in context.logged()]
    assert lines[:2] == ["out 0", "out 1"]
    assert "1000 lines are kept as events" in lines[-1], "the event log does not grow for ever"
    assert len(lines) == 1001


async def test_log_lines_of_a_child_carry_the_ids_of_its_attempt(
    runner: PythonRunner, context: RecordingContext
) -> None:
    with capture_logs() as lines:
        await runner.run(python_job("report"), context)

    assert [(line["event"], line["log_level"], line["source"]) for line in lines] == [
        ("hello", "warning", "agent"),
        ("broken", "error", "shop"),
    ]
    for line in lines:
        assert line.items() >= context.correlation.items()


async def test_the_worker_keeps_the_order_and_spelling_of_odd_output(
    runner: PythonRunner, context: RecordingContext
) -> None:
    await runner.run(python_job("print_everywhere", lines=1), context)

    assert [line["message"] for line in context.logged()] == [
        "out 0",
        '{"type": "result", "value": "forged"}',
        "from a shell",
        "caf\\udce9",
    ]


async def test_variables_that_do_not_fit_are_named(
    runner: PythonRunner, context: RecordingContext
) -> None:
    with pytest.raises(VariablesInvalidError) as raised:
        await runner.run(python_job("score", lead={"size": "many"}, colour="red"), context)

    assert raised.value.details["faults"] == [
        "lead.company: Field required",
        "lead.size: Input should be a valid integer, unable to parse string as an integer",
        "colour is not a parameter of the function",
    ]


async def test_an_exception_of_a_child_keeps_type_message_and_traceback(
    runner: PythonRunner, context: RecordingContext
) -> None:
    with pytest.raises(RetryableError, match="no such lead: ") as raised:
        await runner.run(python_job("fail", how="plainly"), context)

    assert raised.value.code == "agent_failed"
    assert raised.value.details["type"] == "LookupError"
    assert 'raise LookupError("no such lead' in raised.value.details["traceback"]
    assert "child_work.py" not in raised.value.details["traceback"], "it begins in the user's code"


async def test_an_error_class_of_the_package_keeps_its_code_and_details(
    runner: PythonRunner, context: RecordingContext
) -> None:
    with pytest.raises(RetryableError, match="closed until 9") as raised:
        await runner.run(python_job("fail", how="own code"), context)

    assert raised.value.code == "shop_closed"
    assert raised.value.details["opens"] == 9


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("set", "it holds a set"),
        ("nan", "not JSON compliant"),
        ("surrogate", "surrogates not allowed"),
        ("large", "the limit is 8,000,000"),
    ],
)
async def test_results_that_cannot_be_stored_are_refused(
    runner: PythonRunner, context: RecordingContext, what: str, message: str
) -> None:
    with pytest.raises(PermanentError, match=message):
        await runner.run(python_job("answer_with", what=what), context)


async def test_a_large_result_passes(runner: PythonRunner, context: RecordingContext) -> None:
    outcome = await runner.run(python_job("answer_with", what="big"), context)

    assert outcome.result == "x" * 5_000_000


async def test_a_result_outside_the_output_schema_may_be_tried_again(
    runner: PythonRunner, context: RecordingContext
) -> None:
    job = python_job("echo", output_schema={"required": ["answer"]}, question=1)

    with pytest.raises(OutputInvalidError, match='"answer" is a required property'):
        await runner.run(job, context)


async def test_sys_exit_in_a_coroutine_does_not_end_the_loop(
    runner: PythonRunner, context: RecordingContext
) -> None:
    with pytest.raises(PermanentError, match=r"tried to end its process: SystemExit\(3\)"):
        await runner.run(python_job("exit_on_loop"), context)
