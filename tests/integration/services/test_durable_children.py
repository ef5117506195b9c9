"""Durable functions that run other tasks: one, several, branches; on the real database."""

from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import text

from celeriac.agents import durable
from celeriac.domain.errors import RetryableError
from celeriac.domain.executions.states import Status, WaitingFor
from celeriac.domain.executions.steps import NewChildren
from celeriac.domain.tasks import Priority, TaskSpec
from celeriac.services.executions.steps import AttemptSteps
from tests.support.durable_bench import BOTH, Bench


@pytest.mark.requirement("F11")
@BOTH
def test_a_function_goes_on_with_the_result_of_a_child(bench: Bench, kind: str) -> None:
    bench.task("double")
    execution_id = bench.submit(f"parent{kind}", log=str(bench.log), task="double")

    bench.work()

    execution = bench.core.get(execution_id)
    assert execution.result == ["before", 2, "after"], execution.error_message
    assert execution.attempt == 2
    assert bench.lines() == ["before", "after"]
    types = bench.core.event_types(execution_id)
    assert types.count("waiting") == types.count("resumed") == 1
    bench.core.assert_consistent()


def test_results_of_children_are_read_once(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    results = AttemptSteps.results

    async def noting(self: AttemptSteps, number: int, *, most_bytes: int) -> Any:
        read.append(number)
        return await results(self, number, most_bytes=most_bytes)

    monkeypatch.setattr(AttemptSteps, "results", noting)
    bench.task("double")
    execution = bench.submit("parent_of_many", task="double", count=5)
    bench.work(30)

    assert bench.core.get(execution).result == [0, 2, 4, 6, 8]
    assert read == [1, 2, 3, 4, 5]


@BOTH
def test_branches_wait_together(bench: Bench, kind: str) -> None:
    bench.task("double")
    execution_id = bench.submit(f"family{kind}", log=str(bench.log), task="double")

    bench.work()

    execution = bench.core.get(execution_id)
    assert execution.status is Status.COMPLETED, execution.error_message
    assert execution.result == [2, 4, "beside", ["in a branch", 6], None]
    assert execution.attempt == 2, "it waits once for all"
    assert sorted(bench.lines()) == ["beside", "in a branch"]
    assert bench.core.count("executions") == 4
    bench.core.assert_consistent()


@pytest.mark.parametrize(("width", "parallel"), [(0, None), (1, None), (7, 3), (30, None)])
def test_a_map_returns_results_in_order(bench: Bench, width: int, parallel: int | None) -> None:
    bench.task("double")
    execution_id = bench.submit("mapper", task="double", width=min(width, 13), parallel=parallel)

    bench.work()

    execution = bench.core.get(execution_id)
    assert execution.result == [2 * n for n in range(min(width, 13))], execution.error_message
    bench.core.assert_consistent()


def test_a_failed_child_fails_its_parent_when_all_have_ended(bench: Bench) -> None:
    bench.task("double")
    execution_id = bench.submit("mapper", task="double", width=15)

    bench.work()

    execution = bench.core.get(execution_id)
    assert (execution.status, execution.error_code) == (Status.FAILED, "child_failed")
    assert "unlucky" in (execution.error_message or "")
    bench.core.assert_consistent()


def test_errors_of_children_may_be_results(bench: Bench) -> None:
    bench.task("double")
    execution_id = bench.submit("mapper", task="double", width=15, errors=True)

    bench.work()

    execution = bench.core.get(execution_id)
    assert execution.status is Status.COMPLETED, execution.error_message
    assert [*execution.result[:13], execution.result[14]] == [*range(0, 26, 2), 28]
    assert "unlucky" in execution.result[13]


def _children(bench: Bench, parent_id: UUID, status: Status = Status.QUEUED) -> list[UUID]:
    query = text("SELECT id FROM executions WHERE parent_id = :id AND status = :status ORDER BY id")
    with bench.core.database.autocommit() as connection:
        rows = connection.execute(query, {"id": parent_id, "status": status})
        return list(rows.scalars())


@BOTH
def test_a_branch_begins_when_another_has_ended(bench: Bench, kind: str) -> None:
    """It doesn't wait for all that began with that one."""
    core = bench.core
    bench.task("double")
    execution_id = bench.submit(f"bounded{kind}", task="double", width=4)
    core.dispatch.send_due()
    bench.worker.run(execution_id)
    core.dispatch.send_due()
    slow, quick = _children(bench, execution_id)
    assert core.get(execution_id).waiting_for is WaitingFor.CHILD

    bench.worker.run(quick)

    core.dispatch.send_due()
    bench.worker.run(execution_id)
    core.dispatch.send_due()
    assert core.status(slow) is Status.QUEUED, "it has not begun"
    assert len(_children(bench, execution_id)) == 2
    bench.worker.run(_children(bench, execution_id)[1])
    core.dispatch.send_due()
    bench.worker.run(execution_id)
    assert core.get(execution_id).waiting_for is WaitingFor.CHILDREN, "no branch is left to begin"
    bench.work()
    assert core.get(execution_id).result == [[0, 2, 4, 6], 2]
    core.assert_consistent()


@pytest.mark.parametrize("kind", ["", "_in_child"])
def test_branches_in_turn_wait_for_their_children(bench: Bench, kind: str) -> None:
    bench.task("double")
    execution_id = bench.submit(f"bounded{kind}", task="double", width=5)

    bench.work()

    execution = bench.core.get(execution_id)
    assert execution.status is Status.COMPLETED, execution.error_message
    assert execution.result == [[0, 2, 4, 6, 8], 2]
    bench.core.assert_consistent()


def test_children_have_the_queue_of_their_task_unless_another_is_given(bench: Bench) -> None:
    """The parent's own queue is not theirs; its priority is."""
    bench.task("double", TaskSpec(queue="of-task", priority=Priority.LOW))
    execution_id = bench.submit("queues", task="double", spec=TaskSpec(queue="of-parent"))
    bench.core.dispatch.send_due()

    bench.worker.run(execution_id)

    bench.core.dispatch.send_due()
    assert bench.core.get(execution_id).queue == "of-parent"
    children = [bench.core.get(each) for each in _children(bench, execution_id)]
    found = {each.variables["n"]: (each.queue, each.priority) for each in children}
    assert found == {
        0: ("of-task", Priority.NORMAL),
        1: ("slow", Priority.HIGH),
        2: ("slow", Priority.LOW),
    }


@pytest.mark.parametrize(("sizes", "code"), [([50, 40], None), ([50, 60], "results_too_large")])
def test_what_is_gathered_is_bounded(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, sizes: list[int], code: str | None
) -> None:
    monkeypatch.setattr("celeriac.agents.python.context.MAX_GATHERED_BYTES", 100)
    execution_id = bench.submit("gatherer", sizes=sizes)

    bench.work()

    execution = bench.core.get(execution_id)
    assert execution.error_code == code, execution.error_message
    assert execution.result == (None if code else [1_000, *sizes])


def test_a_function_that_is_not_durable_can_run_no_task(bench: Bench) -> None:
    bench.task("double")
    execution_id = bench.submit("not_durable", log=str(bench.log), task="double")

    bench.work()

    execution = bench.core.get(execution_id)
    assert execution.status is Status.FAILED
    assert "durable=True" in (execution.error_message or "")


@pytest.mark.parametrize("lost", [1, 2])
def test_starting_many_children_goes_on_where_it_was_interrupted(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, lost: int
) -> None:
    bench.task("double")
    execution_id = bench.submit("mapper", task="double", width=5)
    monkeypatch.setattr(durable, "_CHUNK", 2)
    real, calls = AttemptSteps.start, 0

    async def start(self: AttemptSteps, number: int, new: NewChildren, step: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == lost + 1:
            raise RetryableError("interrupted")
        await real(self, number, new, step)

    monkeypatch.setattr(AttemptSteps, "start", start)

    bench.work()

    execution = bench.core.get(execution_id)
    assert execution.result == [0, 2, 4, 6, 8], execution.error_message
    assert bench.core.count("executions") == 6, "a child was started twice"
    bench.core.assert_consistent()


def test_a_list_that_has_another_length_is_named(bench: Bench) -> None:
    bench.task("double")
    execution_id = bench.submit("mapper", task="double", width=3)
    bench.worker.run(execution_id)
    bench.core.execute(
        """UPDATE execution_inputs SET variables = jsonb_set(variables::jsonb, '{width}', '4')
           WHERE execution_id = :id""",
        id=execution_id,
    )

    bench.work()

    execution = bench.core.get(execution_id)
    assert execution.error_code == "steps_changed"
    assert "'double' had 3 items" in (execution.error_message or "")
    bench.core.assert_consistent()
