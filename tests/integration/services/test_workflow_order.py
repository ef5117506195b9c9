"""Steps of a workflow run in the order of the graph, each once, and a run ends as it should."""

import pytest

from celeriac.domain.executions.triggers import TriggerType
from celeriac.domain.workflows.states import RunStatus
from tests.support.workflows import FAILS, Flows


@pytest.mark.requirement("E3")
def test_a_chain_hands_results_on_and_returns_the_last(flows: Flows) -> None:
    ran = flows.run(
        {
            "fetch": {"task": "fetch", "with": {"url": "${{ input.url }}"}},
            "facts": {"task": "facts", "with": {"text": "${{ steps.fetch.result.url }}!"}},
        },
        input={"url": "string"},
        given={"url": "a"},
        returns="${{ steps.facts.result.text }}",
    )

    assert (ran.status, ran.result) == (RunStatus.COMPLETED, "a!")
    assert [name for name, _ in flows.done] == ["fetch", "facts"]
    (item,) = ran.items("facts")
    execution = flows.core.get(item.execution_id)
    assert execution.trigger_type is TriggerType.WORKFLOW
    made_by = (execution.workflow_run_id, execution.step, execution.item)
    assert made_by == (ran.id, "facts", 0)
    assert (execution.options.soft_seconds, execution.options.hard_seconds) == (240.0, 300.0)
    assert [kind for kind, _ in ran.events()][-1] == "completed"
    flows.assert_counted()


DIAMOND = {
    "a": {"task": "a"},
    "b": {"task": "b", "needs": ["a"]},
    "c": {"task": "c", "needs": ["a"], "when": "input.c"},
    "d": {"task": "d", "with": {"b": "${{ steps.b.status }}", "c": "${{ steps.c.status }}"}},
}


def test_a_join_runs_though_one_branch_was_skipped(flows: Flows) -> None:
    ran = flows.run(DIAMOND, input={"c": "boolean"}, given={"c": False})

    assert ran.status is RunStatus.COMPLETED
    assert ran.statuses == {"a": "completed", "b": "completed", "c": "skipped", "d": "completed"}
    assert flows.done[-1] == ("d", {"b": "completed", "c": "skipped"})


def test_what_needs_only_skipped_steps_is_skipped_too(flows: Flows) -> None:
    ran = flows.run(
        {
            "a": {"task": "a", "when": "input.on"},
            "b": {"task": "b", "needs": ["a"]},
            "c": {"task": "c", "needs": ["b"]},
        },
        input={"on": "boolean"},
        given={"on": False},
    )
    assert ran.status is RunStatus.COMPLETED
    assert set(ran.statuses.values()) == {"skipped"}
    assert flows.done == []


def test_a_failure_lets_nothing_new_begin_and_runs_the_failure_step_once(flows: Flows) -> None:
    ran = flows.run(
        {
            "a": {"task": "a"},
            "b": {"task": "b", "needs": ["a"]},
            "oops": {"task": "oops", "run": "failure", "with": {"e": "${{ run.error }}"}},
            "always": {"task": "always", "run": "always"},
        },
        lambda name, given: FAILS if name == "a" else given,
    )

    assert ran.status is RunStatus.FAILED
    assert ran.statuses == {
        "a": "failed", "b": "cancelled", "oops": "completed", "always": "completed",
    }  # fmt: skip
    assert sorted(name for name, _ in flows.done) == ["a", "always", "oops"]
    assert (ran.run.error_code, ran.run.error_step) == ("agent_failed", "a")
    error = {"code": "agent_failed", "message": "it failed", "step": "a"}
    assert ("oops", {"e": error}) in flows.done
    flows.assert_counted()


def test_a_failure_step_is_skipped_if_nothing_fails(flows: Flows) -> None:
    ran = flows.run({"a": {"task": "a"}, "oops": {"task": "oops", "run": "failure"}})
    assert ran.status is RunStatus.COMPLETED
    assert ran.statuses == {"a": "completed", "oops": "skipped"}


def test_a_failure_that_is_tolerated_is_seen_by_what_follows(flows: Flows) -> None:
    ran = flows.run(
        {
            "a": {"task": "a", "on_failure": "continue"},
            "b": {
                "task": "b",
                "with": {"s": "${{ steps.a.status }}", "r": "${{ steps.a.result }}"},
            },
        },
        lambda name, given: FAILS if name == "a" else given,
    )
    assert ran.status is RunStatus.COMPLETED
    assert flows.done[-1] == ("b", {"s": "failed", "r": None})


def test_an_expression_without_a_value_fails_its_step(flows: Flows) -> None:
    ran = flows.run(
        {"a": {"task": "a", "with": {"x": "${{ input.x.y.z }}"}}},
        input={"x": "object"},
        given={"x": {}},
    )
    assert ran.status is RunStatus.FAILED
    assert (ran.run.error_code, ran.run.error_step) == ("expression_error", "a")


def test_a_step_whose_task_is_gone_fails(flows: Flows) -> None:
    workflow = flows.define("w", {"a": {"task": "a"}})
    task = next(key for key, name in flows.names.items() if name == "a")
    flows.core.execute("UPDATE tasks SET deleted_at = now() WHERE id = :id", id=task)
    ran = flows.ran(flows.start(workflow))
    assert ran.status is RunStatus.FAILED
    assert ran.run.error_code == "not_found"
    flows.assert_counted()


def test_last_steps_and_the_result_know_how_the_run_ends(flows: Flows) -> None:
    steps = {
        "a": {"task": "a", "with": {"s": "${{ run.status }}", "by": "${{ run.schedule }}"}},
        "last": {"task": "last", "run": "always", "with": {"s": "${{ run.status }}"}},
        "oops": {"task": "oops", "run": "always", "when": "run.status == 'failed'"},
    }
    ran = flows.run(steps, returns="${{ run.status }}")
    assert (ran.status, ran.result) == (RunStatus.COMPLETED, "completed")
    assert flows.done == [("a", {"s": "running", "by": None}), ("last", {"s": "completed"})]
    assert ran.statuses["oops"] == "skipped"

    ran = flows.run(steps, lambda name, given: FAILS if name == "a" else given)
    assert ran.statuses == {"a": "failed", "last": "completed", "oops": "completed"}
    assert ("last", {"s": "failed"}) in flows.done

    run_id = flows.start(flows.define("cancelled", steps))
    flows.runs.cancel(flows.core.actor, run_id)
    flows.drive()
    assert flows.done[-1] == ("last", {"s": "cancelled"})
