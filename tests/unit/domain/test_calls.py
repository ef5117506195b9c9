"""Celery tasks that stand for executions: what their arguments mean, and how they end."""

from datetime import date
from typing import Any
from uuid import UUID

import pytest

from celeriac.domain.errors import InvalidInputError, TooLargeError
from celeriac.domain.executions.calls import (
    MAX_ITEMS,
    Call,
    CalledExecution,
    CallKind,
    Raised,
    Returned,
    Revoked,
    batch_process_arguments,
    execute_agent_arguments,
    execute_workflow_arguments,
    outcome_of,
)
from celeriac.domain.executions.states import Status
from celeriac.domain.tasks import Priority

ID = UUID(int=1)


@pytest.mark.parametrize(
    ("args", "kwargs", "variables"),
    [
        (("t",), {}, {}),
        (("t", {"a": 1}), {}, {"a": 1}),
        ((), {"task": "t", "variables": {"a": 1}}, {"a": 1}),
        (("t",), {"variables": {"a": 1}}, {"a": 1}),
        # in a chain
        (("before", "t"), {}, {"input": "before"}),
        (("before", "t", {"a": 1}), {}, {"a": 1, "input": "before"}),
        (({"x": 1}, "t"), {"variables": {"a": 1}}, {"a": 1, "input": {"x": 1}}),
        (([1, 2],), {"task": "t"}, {"input": [1, 2]}),
        ((None, "t"), {}, {"input": None}),
        (("before", "t"), {"previous": "text"}, {"text": "before"}),
        (("before", "t"), {"previous": None}, {}),
        (("t", {"day": date(2026, 1, 2)}), {}, {"day": "2026-01-02"}),
    ],
)
def test_arguments_of_an_execution(args: Any, kwargs: Any, variables: Any) -> None:
    found = execute_agent_arguments(args, kwargs)
    assert (found.name, found.variables) == ("t", [variables])


@pytest.mark.parametrize(
    ("args", "kwargs", "variables"),
    [
        (("t", [{"a": 1}, {"a": 2}]), {}, [{"a": 1}, {"a": 2}]),
        (("t", []), {}, []),
        (([1, 2], "t"), {}, [{"input": 1}, {"input": 2}]),
        (([1, 2], "t"), {"previous": "n"}, [{"n": 1}, {"n": 2}]),
        (("plan", "t", [{"a": 1}, {}]), {}, [{"a": 1, "input": "plan"}, {"input": "plan"}]),
        (([1], "t"), {"items": [{"a": 1}], "previous": None}, [{"a": 1}]),
    ],
)
def test_arguments_of_a_batch(args: Any, kwargs: Any, variables: Any) -> None:
    found = batch_process_arguments(args, kwargs)
    assert (found.name, found.variables) == ("t", variables)


def test_arguments_of_a_workflow() -> None:
    found = execute_workflow_arguments(("before", "w"), {"input": {"a": 1}, "previous": "text"})
    assert (found.name, found.variables) == ("w", [{"a": 1, "text": "before"}])
    for wrong in ({"task": "t"}, {"workflow": "w", "queue": "q"}, {"workflow": "w", "input": 1}):
        with pytest.raises(InvalidInputError):
            execute_workflow_arguments((), wrong)


def test_options_are_those_of_the_execution() -> None:
    found = execute_agent_arguments(("t",), {"priority": "high", "queue": "reports"})
    assert (found.priority, found.queue) == (Priority.HIGH, "reports")


@pytest.mark.parametrize(
    ("args", "kwargs", "field"),
    [
        ((), {}, "task"),
        ((1,), {}, "task"),
        (("t", 1), {}, "variables"),
        (("t", {"a": object()}), {}, "variables"),
        (("t", {"a": 2**70}), {}, "variables"),
        (("t", {}, {}), {}, "args"),
        (("t", {}), {"variables": {}}, "args"),
        (("t",), {"wrong": 1}, "wrong"),
        (("t",), {"priority": "urgent"}, "priority"),
        (("t",), {"priority": 3}, "priority"),
        (("t",), {"queue": "Bad Queue"}, "queue"),
        (("t",), {"previous": 1}, "previous"),
        (("before", "t", {"input": 1}), {}, "variables.input"),
    ],
)
def test_what_is_wrong_is_named(args: Any, kwargs: Any, field: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        execute_agent_arguments(args, kwargs)
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("args", "field"),
    [
        (("t",), "items"),
        (("t", {}), "items"),
        (({"a": 1}, "t"), "items"),
        (("t", [{}, 1]), "items.1"),
        (("before", "t", [{"input": 1}]), "items.0.input"),
    ],
)
def test_what_is_wrong_with_items_is_named(args: Any, field: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        batch_process_arguments(args, {})
    assert caught.value.field == field


def test_too_many_items_are_refused() -> None:
    with pytest.raises(TooLargeError, match="10,001 items"):
        batch_process_arguments(("t", [{}] * (MAX_ITEMS + 1)), {})


def call(kind: CallKind) -> Call:
    return Call("c", "task", kind, ID, ID, ID, 1, None)


def ended(status: Status, result: Any = None) -> CalledExecution:
    failed = status is Status.FAILED
    return CalledExecution(
        ID, status, result, "agent_failed" if failed else None, "no lead" if failed else None
    )


@pytest.mark.parametrize(
    ("found", "outcome"),
    [
        ([ended(Status.COMPLETED, {"a": 1})], Returned({"a": 1})),
        ([ended(Status.FAILED)], Raised(f"agent_failed: no lead (execution {ID})")),
        ([ended(Status.CANCELLED)], Revoked(f"The execution {ID} was cancelled.")),
        ([], Raised(f"not_found: The execution {ID} was deleted.")),
    ],
)
def test_a_task_ends_like_its_execution(found: list[CalledExecution], outcome: object) -> None:
    assert outcome_of(call(CallKind.EXECUTION), found) == outcome


def test_a_task_ends_like_its_run() -> None:
    outcome = outcome_of(call(CallKind.WORKFLOW), [ended(Status.FAILED)])
    assert outcome == Raised(f"agent_failed: no lead (workflow run {ID})")


def test_a_batch_has_its_errors_aside() -> None:
    found = [ended(Status.COMPLETED, 1), ended(Status.FAILED), ended(Status.CANCELLED)]
    outcome = outcome_of(call(CallKind.BATCH), found)
    assert isinstance(outcome, Returned)
    assert outcome.value["results"] == [1, None, None]
    assert [(each["index"], each["code"]) for each in outcome.value["errors"]] == [
        (1, "agent_failed"),
        (2, "cancelled"),
    ]
