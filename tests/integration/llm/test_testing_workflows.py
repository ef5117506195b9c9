"""`celeriac.testing.run_workflow`: workflows in the test's process, by the rules of the engine."""

from pathlib import Path
from typing import Any

import pytest

from celeriac import AgentContext, PermanentError, Workflow
from celeriac import agent as agent_function
from celeriac.domain.approvals import Answer
from celeriac.domain.errors import (
    CassetteMismatchError,
    InputInvalidError,
    InvalidInputError,
    WorkflowInvalidError,
)
from celeriac.testing import StepError, WorkflowRun, run_workflow

pytestmark = pytest.mark.requirement("E4")


def document(steps: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"workflow": "tried", "steps": steps, **more}


def double(variables: dict[str, Any]) -> Any:
    if variables["n"] < 0:
        raise PermanentError(f"{variables['n']} can't be doubled.")
    return {"n": variables["n"] * 2}


@agent_function("testing-sum", durable=True)
async def total(ctx: AgentContext, numbers: list[int]) -> int:
    """Sum the doubles, and what an earlier step of the run has returned."""
    doubled = await ctx.map("double", [{"n": n} for n in numbers])
    before = [each async for each in ctx.results("each")]
    return sum(each["n"] for each in [*doubled, *before])


def statuses(run: WorkflowRun) -> dict[str, str]:
    return {name: step.status for name, step in run.steps.items()}


MAP = {"task": "double", "map": "input.ns", "with": {"n": "${{ item }}"}}


def test_steps_map_functions_and_the_result_of_a_run() -> None:
    """Stand-ins also answer a durable function, which reads the results of the run."""
    steps = {
        "each": MAP,
        "sum": {"task": "testing-sum", "with": {"numbers": "${{ input.ns }}"}, "needs": ["each"]},
        "big": {"task": "double", "with": {"n": 1}, "when": "steps.sum.result > 100"},
    }
    spec = document(steps, input={"ns": "array"}, returns="${{ steps.sum.result }}")
    run = run_workflow(spec, {"ns": [1, 2]}, tasks={"double": double})
    assert (run.status, run.result, run.error) == ("completed", 12, None)
    assert run.steps["each"].results == ({"n": 2}, {"n": 4})
    assert run.steps["each"].given == ({"n": 1}, {"n": 2})
    assert statuses(run) == {"each": "completed", "sum": "completed", "big": "skipped"}


def test_a_failure_names_the_step_the_item_and_why() -> None:
    """What needs the step is cancelled, and the last steps run."""
    steps = {
        "each": {**MAP, "max_failures": 1},
        "after": {"task": "double", "with": {"n": "${{ size(steps.each.results) }}"}},
        "note": {"task": "note", "with": {"why": "${{ run.error.step }}"}, "run": "failure"},
    }
    spec = document(steps, input={"ns": "array"})
    run = run_workflow(
        spec, {"ns": [-1, 1, -2, 4]}, tasks={"double": double, "note": lambda given: given["why"]}
    )
    message = "2 of 4 items failed; 1 may. Item 0: -1 can't be doubled."
    assert run.error == StepError("too_many_failures", message, "each")
    assert statuses(run) == {"each": "failed", "after": "cancelled", "note": "completed"}
    assert run.steps["note"].result == "each"
    assert [error.index for error in run.steps["each"].errors] == [0, 2]
    assert len(run.steps["each"].given) == 3, "no further item begins"
    with pytest.raises(AssertionError, match=r"step each: 2 of 4 items(.|\n)*item 2: -2 can't"):
        _ = run.result


@pytest.mark.parametrize(
    ("said", "more", "status", "after", "ended"),
    [
        (True, {}, "completed", "completed", "completed"),
        (Answer(approved=False, note="No."), {}, "denied", "skipped", "completed"),
        (False, {"on_denial": "fail"}, "failed", "cancelled", "failed"),
        (None, {}, "failed", "cancelled", "failed"),
        (None, {"on_expiry": "skip"}, "denied", "skipped", "completed"),
    ],
)
def test_an_approval_is_answered_by_the_test(
    said: Any, more: Any, status: str, after: str, ended: str
) -> None:
    """As by a person, and as by nobody."""
    ask = {"approve": "Go on?", "show": {"n": "${{ 1 + 1 }}"}, **more}
    steps = {"ask": ask, "after": {"task": "double", "with": {"n": 1}, "needs": ["ask"]}}
    run = run_workflow(document(steps), tasks={"double": double}, answers={"ask": said})
    assert (run.status, statuses(run)) == (ended, {"ask": status, "after": after})
    assert [(each.title, each.arguments) for each in run.questions] == [("Go on?", {"n": 2})]


def test_rounds_run_until_the_condition_holds_and_keys_are_shared() -> None:
    """As the engine counts both."""
    repeat = {"until": "result.n >= 8", "max": 9}
    given = {"n": "${{ index == 0 ? 1 : result.n }}"}
    steps = {
        "grow": {"task": "double", "with": given, "repeat": repeat},
        "each": {**MAP, "key": "item", "needs": ["grow"]},
    }
    run = run_workflow(
        document(steps, input={"ns": "array"}), {"ns": [3, 3]}, tasks={"double": double}
    )
    assert [given["n"] for given in run.steps["grow"].given] == [1, 2, 4]
    assert run.steps["grow"].result == {"n": 8}
    assert (run.steps["each"].given, run.steps["each"].results) == (({"n": 3},), ({"n": 6},) * 2)


def test_a_failed_run_is_undone_in_the_reverse_order() -> None:
    """The undo tasks get what was given and what was returned."""
    undone: list[dict[str, Any]] = []
    steps = {
        "a": {"task": "double", "with": {"n": 1}, "undo": "halve"},
        "b": {"task": "double", "with": {"n": "${{ steps.a.result.n }}"}, "undo": "halve"},
        "c": {"task": "double", "with": {"n": "${{ 0 - steps.b.result.n }}"}, "undo": "halve"},
    }
    run = run_workflow(document(steps), tasks={"double": double, "halve": undone.append})
    assert (run.compensation, list(run.undone)) == ("compensated", ["a", "b"])
    assert [each["input"] for each in undone] == [{"n": 2}, {"n": 1}]
    assert undone[0]["result"] == {"n": 4}


def test_a_workflow_in_a_step_is_that_of_the_project(tmp_path: Path) -> None:
    """Its failure has the step in it that failed; its approvals have paths."""
    file = tmp_path / "project.yaml"
    file.write_text(
        "workflows:\n"
        "- {workflow: outer, steps: {below: {workflow: inner, with: {n: 3}}},\n"
        "   returns: '${{ steps.below.result }}'}\n"
        "- workflow: inner\n"
        "  input: {n: integer}\n"
        "  steps:\n"
        "    ask: {approve: Sure?}\n"
        "    last: {task: double, with: {n: '${{ input.n }}'}, needs: [ask]}\n"
        "  returns: ${{ steps.last.result.n }}\n"
    )

    def fails(variables: dict[str, Any]) -> Any:
        raise PermanentError("No more.")

    answers = {"below/ask": True}
    run = run_workflow("outer", project=file, tasks={"double": double}, answers=answers)
    assert run.result == 6
    run = run_workflow("outer", project=file, tasks={"double": fails}, answers=answers)
    assert str(run.error) == "step below/last: No more. (agent_failed_permanently)"
    assert run.steps["below"].error == StepError(
        "agent_failed_permanently", "No more.", below="last"
    )
    with pytest.raises(InvalidInputError, match=r"below/ask asks: Sure\?.*answers="):
        run_workflow("outer", project=file, tasks={"double": double})


def test_mistakes_of_a_test_are_raised_and_name_the_cure() -> None:
    """They are no failures of the run, even if a step tolerates those."""
    step = {"task": "double", "with": {"n": 1}, "on_failure": "continue"}
    one = document({"one": step})
    w = Workflow("built")
    w.step("double", n=1)
    assert run_workflow(w, tasks={"double": double}).status == "completed"
    with pytest.raises(InvalidInputError, match=r"no task 'nowhere'.*tasks=\{'nowhere'"):
        run_workflow(document({"one": {"task": "nowhere", "on_failure": "continue"}}))
    with pytest.raises(InvalidInputError, match="no step 'two' that asks"):
        run_workflow(one, tasks={"double": double}, answers={"two": True})
    with pytest.raises(WorkflowInvalidError, match="there is no field tsk"):
        run_workflow(document({"one": {"tsk": "double"}}))
    with pytest.raises(InputInvalidError, match="n"):
        run_workflow({**one, "input": {"n": "integer"}}, {"n": "1"}, tasks={"double": double})
    with pytest.raises(ZeroDivisionError):
        run_workflow(one, tasks={"double": lambda _: 1 / 0})


def test_a_request_that_was_not_recorded_is_no_failure_of_the_run(tmp_path: Path) -> None:
    """Nor is a stand-in that returns what the task of the project can't."""
    file = tmp_path / "project.yaml"
    file.write_text(
        "agents: [{name: writer, spec: {runner: llm, model: openai/model}}]\n"
        "tasks:\n"
        "- {name: write, agent: writer, spec: {prompt: Hi, output_schema: {type: object}}}\n"
        "workflows: [{workflow: w, steps: {draft: {task: write, on_failure: continue}}}]\n"
    )
    with pytest.raises(CassetteMismatchError) as caught:
        run_workflow("w", project=file)
    assert caught.value.__notes__ == ["In the step draft."]
    with pytest.raises(InvalidInputError, match=r"tasks\['write'\] returns what the task can't"):
        run_workflow("w", project=file, tasks={"write": lambda _: 3})
