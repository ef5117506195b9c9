"""Durable functions on the real database: stored steps are not done again, waits hold no slot."""

from typing import Any

import pytest

from celeriac.agents import durable
from celeriac.db.executions import steps as step_rows
from celeriac.domain.executions.states import Status, WaitingFor
from celeriac.domain.tasks import TaskSpec
from celeriac.services.executions.steps import AttemptSteps
from tests.support.core import LEASE_SECONDS
from tests.support.durable_bench import BOTH, Bench


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
    [
        ("a b c", "b a c", "'b'"),
        ("a b", "a x b", "'x'"),
        ("a b c", "b c", "'b'"),
        ("a|b c", "a b c", "call 1 of the function was a gather"),
        ("a b|c d", "a d", "call 2 of the function was a gather"),
        ("a|b c|d", "c d", "call 1 of the function was a gather"),
        ("a&b c", "c", "call 1 of the function was a gather"),
        ("a b", "a|b", "and is now a gather with step"),
        ("a b|c", "a&x b|c", "call 1 of the function was step 'a', and is now a gather"),
        ("a|b c", "x a|b c", "call 1 of the function was a gather"),
    ],
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


def test_a_gather_is_the_same_however_its_calls_are_made(bench: Bench) -> None:
    """Their places are those of branches; calls that were made before it have no others."""
    bench.log.write_text("a b|c d&e f")
    execution_id = bench.submit("changed", log=str(bench.log))
    bench.work()

    execution = bench.core.get(execution_id)
    assert execution.error_message == "again"
    found = bench.core.event_types(execution_id)
    assert found.count("step_completed") == 6, "each step was made once"
    with bench.core.database.autocommit() as connection:
        places = {
            each.name: each.path
            for each in step_rows.load(connection, execution_id, after=0, limit=9)
        }
    assert places == {"a": "1", "b": "2.1.1", "c": "2.2.1", "d": "3.1.1", "e": "3.2.1", "f": "4"}


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
