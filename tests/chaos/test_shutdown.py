"""SIGTERM: what runs may end, what can't is handed back, and nothing is lost."""

import signal

import pytest

from celeriac.domain.executions.states import Status
from tests.support.fleet import Fleet
from tests.support.waiting import wait_until

pytestmark = pytest.mark.requirement("B8")

GRACE_SECONDS = 2.0


@pytest.mark.parametrize("pool", ["threads", "prefork", "solo"])
def test_what_ends_within_the_grace_time_counts(fleet: Fleet, pool: str) -> None:
    fleet.beat()
    worker = fleet.worker(pool=pool, slots=1 if pool == "solo" else 2)
    task = fleet.task("nap")
    execution = fleet.submit(task, seconds=GRACE_SECONDS / 2, diary=str(fleet.diary))
    wait_until(fleet.diary_lines, "it runs")
    worker.terminate()
    assert worker.wait_end() == 0
    done = fleet.get(execution)
    assert (done.status, done.attempt) == (Status.COMPLETED, 1)
    fleet.assert_consistent()


@pytest.mark.parametrize("function", ["hold", "plain_nap"])
@pytest.mark.parametrize("pool", ["threads", "prefork", "solo"])
def test_what_takes_longer_is_handed_back(fleet: Fleet, pool: str, function: str) -> None:
    fleet.beat()
    slots = 1 if pool == "solo" else 2
    first = fleet.worker("w1", pool=pool, slots=slots)
    arguments = {"gate": str(fleet.gate)} if function == "hold" else {"seconds": 60}
    execution = fleet.submit(fleet.task(function), diary=str(fleet.diary), **arguments)
    wait_until(fleet.diary_lines, "it runs")
    first.terminate()
    assert first.wait_end() == 0
    assert fleet.event_types(execution)[2:4] == ["started", "handed_back"]
    fleet.worker("w2", pool=pool, slots=slots)
    wait_until(lambda: len(fleet.diary_lines()) == 2, "another worker runs it")
    running = fleet.get(execution)
    assert (running.attempt, running.crash_count, running.retry_count) == (2, 0, 0)
    if function == "hold":
        fleet.open_gate()
        assert fleet.wait_terminal([execution])[0].status is Status.COMPLETED
    fleet.assert_consistent()


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
    fleet.worker("last", slots=8)
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
    fleet.worker("w2", pool=pool, slots=2)
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
    fleet.worker("w2")
    wait_until(lambda: len(fleet.diary_lines()) == 2, "another worker runs it")
    fleet.open_gate()
    done = fleet.wait_terminal([execution])[0]
    assert (done.status, done.attempt) == (Status.COMPLETED, 2)
