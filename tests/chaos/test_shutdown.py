"""SIGTERM: what runs may end, what can't is handed back, and nothing is lost."""

import signal
from uuid import UUID

import pytest

from celeriac.domain.executions.states import Status
from tests.support.fleet import Fleet
from tests.support.waiting import wait_until

pytestmark = pytest.mark.requirement("B8")

GRACE_SECONDS = 2.0


@pytest.mark.parametrize("pool", ["threads", "prefork"])
def test_what_ends_within_the_grace_time_counts_and_the_rest_is_handed_back(
    fleet: Fleet, pool: str
) -> None:
    fleet.beat()
    first = fleet.worker("w1", pool=pool, slots=3)
    diary = str(fleet.diary)
    held = fleet.submit(fleet.task("hold"), diary=diary, gate=str(fleet.gate))
    child = fleet.submit(fleet.task("plain_nap"), diary=diary, seconds=60)
    wait_until(lambda: len(fleet.diary_lines()) == 2, "the long ones run")
    short = fleet.submit(fleet.task("nap"), seconds=GRACE_SECONDS / 2, diary=diary)
    wait_until(lambda: len(fleet.diary_lines()) == 3, "the short one runs, too")
    first.terminate()
    assert first.wait_end() == 0
    done = fleet.get(short)
    assert (done.status, done.attempt) == (Status.COMPLETED, 1)
    assert_handed_back(fleet, held)
    assert_handed_back(fleet, child)

    fleet.lasting_worker("w2", pool=pool, slots=2)
    wait_until(lambda: len(fleet.diary_lines()) == 5, "another worker runs them")
    assert_not_held_against(fleet, held)
    assert_not_held_against(fleet, child)
    fleet.open_gate()
    assert fleet.wait_terminal([held])[0].status is Status.COMPLETED


def test_what_ends_within_the_grace_time_counts_in_the_solo_pool(fleet: Fleet) -> None:
    fleet.beat()
    worker = fleet.worker(pool="solo", slots=1)
    task = fleet.task("nap")
    execution = fleet.submit(task, seconds=GRACE_SECONDS / 2, diary=str(fleet.diary))
    wait_until(fleet.diary_lines, "it runs")
    worker.terminate()
    assert worker.wait_end() == 0
    done = fleet.get(execution)
    assert (done.status, done.attempt) == (Status.COMPLETED, 1)
    fleet.assert_consistent()


@pytest.mark.parametrize("function", ["hold", "plain_nap"])
def test_what_takes_longer_is_handed_back_by_the_solo_pool(fleet: Fleet, function: str) -> None:
    fleet.beat()
    first = fleet.worker("w1", pool="solo", slots=1)
    arguments = {"gate": str(fleet.gate)} if function == "hold" else {"seconds": 60}
    execution = fleet.submit(fleet.task(function), diary=str(fleet.diary), **arguments)
    wait_until(fleet.diary_lines, "it runs")
    first.terminate()
    assert first.wait_end() == 0
    assert_handed_back(fleet, execution)
    fleet.lasting_worker("w2", pool="solo", slots=1)
    wait_until(lambda: len(fleet.diary_lines()) == 2, "another worker runs it")
    assert_not_held_against(fleet, execution)
    fleet.assert_consistent()


def assert_handed_back(fleet: Fleet, execution: UUID) -> None:
    assert fleet.event_types(execution)[2:4] == ["started", "handed_back"]


def assert_not_held_against(fleet: Fleet, execution: UUID) -> None:
    """Check that it runs again, and that nothing counts as a crash or a retry."""
    running = fleet.get(execution)
    assert (running.attempt, running.crash_count, running.retry_count) == (2, 0, 0)


def test_nothing_is_lost_when_workers_come_and_go(fleet: Fleet) -> None:
    """Three times a worker is told to end under load and another takes its place."""
    fleet.beat()
    task = fleet.task("nap")
    ids = fleet.batch(task, [{"seconds": 0.2}] * 120)
    for number in range(3):
        worker = fleet.worker(f"w{number}", slots=4)
        ended = fleet.ended(ids)
        wait_until(lambda before=ended: fleet.ended(ids) > before, "it works")  # type: ignore[misc]
        worker.terminate()
        assert worker.wait_end() == 0
    fleet.lasting_worker("last", slots=8)
    done = fleet.wait_terminal(ids)
    assert {(each.status, each.attempt) for each in done} == {(Status.COMPLETED, 1)}


@pytest.mark.parametrize("pool", ["threads", "prefork"])
def test_sigquit_hands_back_at_once(fleet: Fleet, pool: str) -> None:
    """Celery's cold shutdown would end its pool by force, or, in threads, never end."""
    fleet.beat()
    first = fleet.worker("w1", pool=pool, slots=2)
    execution = fleet.submit(fleet.task("hold"), diary=str(fleet.diary), gate=str(fleet.gate))
    wait_until(fleet.diary_lines, "it runs")
    first.signal(signal.SIGQUIT)
    first.wait_end()
    assert fleet.event_types(execution)[2:4] == ["started", "handed_back"]
    fleet.lasting_worker("w2", pool=pool, slots=2)
    wait_until(lambda: len(fleet.diary_lines()) == 2, "another worker runs it")
    fleet.open_gate()
    done = fleet.wait_terminal([execution])[0]
    assert (done.status, done.attempt) == (Status.COMPLETED, 2)


def test_killed_while_it_winds_up(fleet: Fleet) -> None:
    """As by a service manager that has lost its patience; the keeper brings back what ran."""
    fleet.beat()
    first = fleet.worker("w1", CELERIAC_CELERY_WORKER_SOFT_SHUTDOWN_TIMEOUT="60")
    execution = fleet.submit(fleet.task("hold"), diary=str(fleet.diary), gate=str(fleet.gate))
    wait_until(fleet.diary_lines, "it runs")
    first.terminate()
    wait_until(lambda: first.logged("worker.shutting_down"), "it has understood")
    first.kill()
    fleet.lasting_worker("w2")
    wait_until(lambda: len(fleet.diary_lines()) == 2, "another worker runs it")
    fleet.open_gate()
    done = fleet.wait_terminal([execution])[0]
    assert (done.status, done.attempt) == (Status.COMPLETED, 2)
