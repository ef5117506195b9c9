"""Durable functions on the real database: stored steps are not done again, waits hold no slot."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import text

from celeriac.agents import durable
from celeriac.agents.python.runner import PythonRunner
from celeriac.domain.agents import PythonAgent, RunnerName
from celeriac.domain.errors import RetryableError
from celeriac.domain.executions.model import SubmitRequest
from celeriac.domain.executions.states import Status, WaitingFor
from celeriac.domain.executions.steps import NewChildren
from celeriac.domain.tasks import Priority, RetryPolicy, TaskSpec
from celeriac.kit.loop import LoopThread
from celeriac.services.catalog.agents import Agents
from celeriac.services.catalog.tasks import Tasks
from celeriac.services.executions.steps import AttemptSteps
from tests.support import durable_functions
from tests.support.confined import confined
from tests.support.core import LEASE_SECONDS, Core
from tests.support.executing import Worker
from tests.support.memory import MemoryRunners

FUNCTIONS = durable_functions.__name__
BOTH = pytest.mark.parametrize("kind", ["", "_in_child"])
SOON = TaskSpec(retry=RetryPolicy(max_retries=3, base_seconds=0.001))


class Bench:
    """A worker that runs durable functions."""

    def __init__(self, core: Core, workdir: Path, loop: LoopThread) -> None:
        self.core = core
        self.log = workdir / "log"
        self._workdir = workdir
        self._loop = loop
        self.worker = self.another_worker()

    def another_worker(self) -> Worker:
        """Return a worker process that knows nothing yet."""

        async def nothing(_job: Any, _context: Any) -> None: ...

        worker = Worker(self.core, self._workdir / "work", self._loop, nothing)
        environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(Path.cwd())}
        runner = PythonRunner(modules=(FUNCTIONS,), confinement=confined(environment))
        worker.use(MemoryRunners({RunnerName.PYTHON: runner}))
        return worker

    def task(self, function: str, spec: TaskSpec | None = None) -> UUID:
        """Store a task of a function, named after it."""
        database, actor = self.core.database, self.core.actor
        agent = PythonAgent(function=f"{FUNCTIONS}:{function}")
        Agents(database).create(actor, name=function, spec=agent)
        made = Tasks(database).create(actor, name=function, agent=function, spec=spec or SOON)
        return made.id

    def submit(self, function: str, *, spec: TaskSpec | None = None, **variables: Any) -> UUID:
        """Submit an execution of a function."""
        task = self.task(function, spec)
        return self.core.submit(
            self.core.actor, SubmitRequest(task_id=task, variables=variables)
        ).execution_id

    def work(self, turns: int = 20) -> int:
        """Run all that is due, also what becomes due by that; return how many attempts."""
        total = 0
        for _ in range(turns):
            done = self.worker.drain()
            while (message := self.core.queue.take("task_execution")) is not None:
                done += self.worker.run(message.message.execution_id)
            total += done
            if not done:
                break
        return total

    def lines(self) -> list[str]:
        """Return the effects, in order."""
        return self.log.read_text().split("\n")[:-1] if self.log.exists() else []


@pytest.fixture
def loop() -> Iterator[LoopThread]:
    loop = LoopThread()
    yield loop
    loop.close()


@pytest.fixture
def bench(core: Core, tmp_path: Path, loop: LoopThread) -> Bench:
    return Bench(core, tmp_path, loop)


@pytest.mark.requirement("F11")
@BOTH
@pytest.mark.parametrize("stop_at", [1, 5, 10])
def test_stored_steps_are_not_done_again(bench: Bench, kind: str, stop_at: int) -> None:
    execution_id = bench.submit(f"ten_steps{kind}", log=str(bench.log), stop_at=stop_at)

    bench.work()

    execution = bench.core.get(execution_id)
    steps = [f"step {number}" for number in range(1, 11)]
    assert (execution.status, execution.attempt) == (Status.COMPLETED, 2), execution.error_message
    assert execution.result == steps
    assert bench.lines() == steps
    assert bench.core.event_types(execution_id).count("step_completed") == 10
    bench.core.assert_consistent()


@pytest.mark.requirement("F11")
@BOTH
def test_a_sleep_holds_no_slot_and_goes_on_in_another_worker(bench: Bench, kind: str) -> None:
    execution_id = bench.submit(f"sleeper{kind}", log=str(bench.log))
    bench.work()
    asleep = bench.core.get(execution_id)
    bench.core.pass_time(3590)
    bench.core.execute("UPDATE steps SET wake_at = wake_at - interval '3590 s'")
    assert bench.core.resume() == 0

    bench.core.pass_time(11)
    bench.core.execute("UPDATE steps SET wake_at = wake_at - interval '11 s'")
    assert bench.core.resume() == 1
    bench.worker = bench.another_worker()
    bench.work()

    assert (asleep.status, asleep.waiting_for) == (Status.WAITING, WaitingFor.SLEEP)
    execution = bench.core.get(execution_id)
    assert execution.result == ["before", "after"], execution.error_message
    assert bench.lines() == ["before", "after"]
    bench.core.assert_consistent()


@BOTH
def test_a_short_sleep_is_waited_for_in_place(bench: Bench, kind: str) -> None:
    execution_id = bench.submit(f"sleeper{kind}", log=str(bench.log), seconds=0.05)

    assert bench.work() == 1

    assert bench.core.status(execution_id) is Status.COMPLETED


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


@BOTH
def test_a_question_holds_no_slot(bench: Bench, kind: str) -> None:
    execution_id = bench.submit(f"asker{kind}", log=str(bench.log))
    bench.work()
    asked = bench.core.get(execution_id)

    bench.core.answer(execution_id)
    bench.work()

    assert (asked.status, asked.waiting_for) == (Status.WAITING, WaitingFor.APPROVAL)
    execution = bench.core.get(execution_id)
    assert execution.result == [True, "after"], execution.error_message
    assert bench.lines() == ["before", "after"]
    bench.core.assert_consistent()


@pytest.mark.parametrize(("fails", "retry", "tries"), [(2, 3, 3), (0, 0, 1)])
def test_a_step_has_retries_of_its_own(bench: Bench, fails: int, retry: int, tries: int) -> None:
    execution_id = bench.submit("charger", log=str(bench.log), fails=fails, retry=retry)

    assert bench.work() == 1

    assert bench.core.get(execution_id).result == "charged"
    assert bench.lines() == ["charge"] * tries


def test_a_retry_of_the_execution_does_a_failed_step_again(bench: Bench) -> None:
    execution_id = bench.submit("charger", log=str(bench.log), fails=2, retry=1)

    bench.work()

    execution = bench.core.get(execution_id)
    assert (execution.result, execution.attempt) == ("charged", 2)
    assert bench.lines() == ["charge"] * 3
    types = bench.core.event_types(execution_id)
    assert (types.count("step_failed"), types.count("step_completed")) == (1, 1)


def test_a_failure_that_was_handled_is_the_same_in_each_attempt(bench: Bench) -> None:
    execution_id = bench.submit("charger", log=str(bench.log), fails=1, retry=0, handles=True)

    bench.work()

    execution = bench.core.get(execution_id)
    assert execution.result == "charge: agent_failed", execution.error_message
    assert bench.lines() == ["charge", "apologise"]


@pytest.mark.parametrize(
    ("before", "after", "found"),
    [("a b c", "b a c", "'b'"), ("a b", "a x b", "'x'"), ("a b c", "b c", "'b'")],
)
def test_steps_whose_order_has_changed_are_named(
    bench: Bench, before: str, after: str, found: str
) -> None:
    bench.log.write_text(before)
    execution_id = bench.submit("changed", log=str(bench.log))
    bench.worker.run(execution_id)

    bench.log.write_text(after)
    bench.work()

    execution = bench.core.get(execution_id)
    assert (execution.status, execution.error_code) == (Status.FAILED, "steps_changed")
    assert found in (execution.error_message or "")


def test_a_function_that_catches_parking_is_told(bench: Bench) -> None:
    execution_id = bench.submit("swallower")

    bench.work()

    execution = bench.core.get(execution_id)
    assert (execution.status, execution.error_code) == (Status.FAILED, "agent_failed_permanently")
    assert "caught celeriac.Parking" in (execution.error_message or "")


def test_a_function_that_is_not_durable_waits_in_place(bench: Bench) -> None:
    execution_id = bench.submit("not_durable", log=str(bench.log))

    assert bench.work() == 1

    assert bench.core.get(execution_id).result == "step"


def test_a_function_that_is_not_durable_can_run_no_task(bench: Bench) -> None:
    bench.task("double")
    execution_id = bench.submit("not_durable", log=str(bench.log), task="double")

    bench.work()

    execution = bench.core.get(execution_id)
    assert execution.status is Status.FAILED
    assert "durable=True" in (execution.error_message or "")


def test_large_results_are_read_again(bench: Bench) -> None:
    execution_id = bench.submit("large", size=300_000)

    bench.work()

    assert bench.core.get(execution_id).result == 300_000


def test_a_result_that_is_too_large_names_its_step(bench: Bench) -> None:
    execution_id = bench.submit("large", size=9_000_000)

    bench.work()

    execution = bench.core.get(execution_id)
    assert execution.error_code == "agent_failed_permanently"
    assert "The step 'large'" in (execution.error_message or "")


@pytest.mark.requirement("F11")
def test_a_lost_worker_leaves_its_steps_to_the_next(bench: Bench) -> None:
    execution_id = bench.submit("sleeper", log=str(bench.log), seconds=1.0)
    claim = bench.core.claim(bench.core.message(execution_id))
    assert claim is not None
    bench.core.pass_time(LEASE_SECONDS + 1)
    assert bench.core.rescue() == 1
    bench.core.pass_time(60)

    bench.work()

    assert bench.core.get(execution_id).result == ["before", "after"]
    bench.core.assert_consistent()


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
        """UPDATE execution_inputs SET variables = jsonb_set(variables, '{width}', '4')
           WHERE execution_id = :id""",
        id=execution_id,
    )

    bench.work()

    execution = bench.core.get(execution_id)
    assert execution.error_code == "steps_changed"
    assert "'double' had 3 items" in (execution.error_message or "")
    bench.core.assert_consistent()


@BOTH
def test_a_step_may_call_steps(bench: Bench, kind: str) -> None:
    execution_id = bench.submit(f"nested{kind}", log=str(bench.log))
    bench.work()
    bench.core.pass_time(3_601)
    bench.core.execute("UPDATE steps SET wake_at = wake_at - interval '3601 s'")
    bench.core.resume()
    bench.worker = bench.another_worker()
    bench.work()

    execution = bench.core.get(execution_id)
    assert execution.result == ["inner", "outer", "after"], execution.error_message
    assert execution.attempt == 2
    assert bench.lines() == ["inner", "outer", "after"]


def test_a_sleep_until_a_time_that_cannot_be_read_back_is_refused(bench: Bench) -> None:
    execution_id = bench.submit("for_ever", spec=TaskSpec())

    bench.work()

    execution = bench.core.get(execution_id)
    assert (execution.status, execution.error_code) == (Status.FAILED, "invalid_input")
    assert "until needs a year from 1970 to 9000" in (execution.error_message or "")


def test_an_attempt_asks_only_so_many_questions(bench: Bench) -> None:
    execution_id = bench.submit("asks_much", number=durable.MAX_QUESTIONS + 3)

    bench.work()

    execution = bench.core.get(execution_id)
    assert execution.status is Status.WAITING, execution.error_message
    assert bench.core.count("approvals") == durable.MAX_QUESTIONS


def test_large_results_are_not_kept_in_memory(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[bool] = []
    load = AttemptSteps.load

    async def watched(steps: AttemptSteps) -> Any:
        found = await load(steps)
        loaded.extend(each.has_large_result and each.result is None for each in found)
        return found

    monkeypatch.setattr(AttemptSteps, "load", watched)
    execution_id = bench.submit("hoarder")

    bench.work()

    execution = bench.core.get(execution_id)
    assert execution.result == [500_000] * 3, execution.error_message
    assert loaded == [True] * 3


def test_a_step_may_be_tried_very_often(bench: Bench) -> None:
    execution_id = bench.submit("stubborn", spec=TaskSpec())

    bench.work()

    execution = bench.core.get(execution_id)
    assert execution.result == 1_100, execution.error_message
