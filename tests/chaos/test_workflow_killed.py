"""Workflows on real workers that are killed, and whose messages come twice or never."""

from collections import Counter
from uuid import UUID

import pytest
from sqlalchemy import text

from celeriac.domain.workflows.states import Compensation, RunStatus
from tests.support import unreliable_messages
from tests.support.fleet import UNHURRIED, Fleet
from tests.support.fleet_workflows import FleetWorkflows, Steps
from tests.support.waiting import wait_until

pytestmark = pytest.mark.requirement("E3")

WIDTH = 200
REDUCE = {"task": "pick", "with": {"value": "${{ steps.each.results }}"}}
_SPAWNED = text("SELECT spawned FROM step_runs WHERE run_id = :id AND step = :step")
_LOCK = text("SELECT FROM workflow_runs WHERE id = :id FOR NO KEY UPDATE")
_ENDED = text("""
SELECT count(*) FROM executions WHERE run_id = :id AND status = 'completed'
""")
_ITEMS = text("""
SELECT count(*) - count(DISTINCT item_no) AS doubled, count(DISTINCT item_no)
FROM executions WHERE run_id = :id AND step_no = 2
""")


@pytest.fixture
def flows(fleet: Fleet) -> FleetWorkflows:
    return FleetWorkflows(fleet)


@pytest.mark.failure("W1")
def test_a_map_survives_killed_workers_and_its_reduce_starts_once(flows: FleetWorkflows) -> None:
    """Two workers are killed one after the other, each in the middle of the map."""
    fleet = flows.fleet
    fleet.beat()
    worker = fleet.worker("w0")
    numbers = list(range(WIDTH))
    step = {"task": "nap", "map": str(numbers), "with": {"seconds": 0.05}, "parallel": 16}
    steps: Steps = {"each": step, "all": {"task": "pick", "needs": ["each"]}}
    run_id = flows.start(flows.define("killed", steps))
    for number in range(1, 3):
        wait_ended(flows, run_id, WIDTH * number // 3)
        worker.kill()
        worker = fleet.worker(f"w{number}")

    ran = flows.ended(run_id, within=90)

    assert ran.status is RunStatus.COMPLETED
    assert (ran.steps["each"].completed, ran.steps["each"].remaining) == (WIDTH, 0)
    assert [item.status for item in ran.items("each")] == ["completed"] * WIDTH
    assert flows.made(run_id) == Counter(each=WIDTH, all=1)


@pytest.mark.failure("W3")
def test_messages_that_come_twice_or_never_don_t_miscount(flows: FleetWorkflows) -> None:
    """Every process sends each message twice, and loses one of ten."""
    fleet, program = flows.fleet, unreliable_messages.__name__
    unreliable = ["-m", program, "-A", "celeriac"]
    fleet.program("beat", [*unreliable, "beat"], **UNHURRIED)
    options = ["--pool", "threads", "-c", "4", "-n", "w1@fleet", *unreliable_messages.WORKER]
    worker = fleet.program("w1", [*unreliable, "worker", *options], **UNHURRIED)
    fleet.wait_ready(worker)
    numbers = list(range(20))
    steps: Steps = {
        "each": {
            "task": "pick", "map": str(numbers), "parallel": 3, "with": {"value": "${{ item }}"}
        },
        "all": REDUCE,
        **{f"s{n}": {"task": "pick", "needs": ["all" if n == 0 else f"s{n - 1}"]}
           for n in range(5)},
    }  # fmt: skip
    workflow = flows.define("doubled", steps, returns="${{ steps.all.result }}")

    ended = flows.all_ended([flows.start(workflow) for _ in range(5)], within=90)

    for ran in ended:
        assert (ran.status, ran.result) == (RunStatus.COMPLETED, numbers)
        assert (ran.steps["each"].completed, ran.steps["each"].remaining) == (20, 0)
        assert flows.made(ran.id) == Counter({**dict.fromkeys(steps, 1), "each": 20})
    lost = sum(len(each.logged("message.lost")) for each in fleet.programs)
    doubled = sum(len(each.logged("message.doubled")) for each in fleet.programs)
    assert lost
    assert doubled > lost


@pytest.mark.failure("W10")
def test_an_item_that_kills_its_worker_fails_as_any_other(flows: FleetWorkflows) -> None:
    fleet = flows.fleet
    fleet.beat()
    crashing = fleet.worker("w1")
    flows.task("crash", max_crashes=1)
    steps: Steps = {
        "a": {"task": "crash", "with": {"diary": str(fleet.diary)}},
        "b": {"task": "pick", "needs": ["a"]},
        "failed": {
            "task": "pick", "run": "failure", "with": {"value": "${{ run.error.code }}"},
        },
    }  # fmt: skip
    run_id = flows.start(flows.define("crash", steps))
    crashing.wait_end()
    fleet.worker("w2")

    ran = flows.ended(run_id)

    assert ran.status is RunStatus.FAILED
    assert ran.statuses == {"a": "failed", "b": "cancelled", "failed": "completed"}
    assert (ran.run.error_code, ran.run.error_step) == ("worker_lost", "a")
    assert ran.items("failed")[0].result == "worker_lost"
    assert flows.made(run_id) == Counter(a=1, failed=1)


@pytest.mark.failure("W16")
def test_a_retry_after_the_fleet_was_killed_hands_on_all_items(flows: FleetWorkflows) -> None:
    """Items that were running when all programs died are not forgotten."""
    fleet, numbers = flows.fleet, list(range(40))
    programs = [fleet.beat(), fleet.worker("w1")]
    gate, diary = fleet.notes / "gate", fleet.notes / "items"
    held = {"gate": f"${{{{ item < 20 ? '' : '{gate}' }}}}", "diary": str(diary)}
    step = {"task": "pick", "map": str(numbers), "parallel": 8,
            "with": {"value": "${{ item }}", **held}}  # fmt: skip
    run_id = flows.start(
        flows.define("fleet", {"each": step, "all": REDUCE}, returns="${{ steps.all.result }}")
    )
    flows.wait_lines(diary, 28)
    wait_ended(flows, run_id, 20)
    for program in programs:
        program.kill()
    flows.runs.cancel(fleet.actor, run_id)
    fleet.beat("beat2")
    fleet.worker("w2")
    assert flows.ended(run_id).status is RunStatus.CANCELLED
    gate.touch()

    again = flows.ended(flows.runs.retry(fleet.actor, run_id).run_id)

    assert (again.status, again.result) == (RunStatus.COMPLETED, numbers)
    assert flows.made(again.id) == Counter(each=20, all=1)


@pytest.mark.failure("W18")
def test_the_rest_of_a_map_is_made_after_its_maker_was_killed(flows: FleetWorkflows) -> None:
    """The worker that makes the items dies between two chunks of a thousand."""
    fleet, width = flows.fleet, 6_000
    maker = fleet.worker("w1")
    steps: Steps = {
        "list": {"task": "give", "with": {"count": width}},
        "each": {
            "task": "pick", "map": "steps.list.result", "parallel": 1,
            "with": {"gate": str(fleet.gate)},
        },
    }  # fmt: skip
    run_id = flows.start(flows.define("maker", steps))

    def killed() -> bool:
        with fleet.container.database.transaction() as connection:
            connection.execute(_LOCK, {"id": run_id})  # no chunk is made meanwhile
            made = connection.execute(_SPAWNED, {"id": run_id, "step": "each"}).scalar_one()
            if made:
                maker.kill()
        return bool(made)

    wait_until(killed, "the maker is killed between two chunks")
    assert fleet.scalar(_SPAWNED, id=run_id, step="each") < width, "it was killed too late"

    fleet.beat()
    wait_until(lambda: fleet.scalar(_SPAWNED, id=run_id, step="each") == width, "all are made")

    with fleet.container.database.autocommit() as connection:
        made = connection.execute(_ITEMS, {"id": run_id}).one()
    assert tuple(made) == (0, width)
    flows.runs.cancel(fleet.actor, run_id)
    assert flows.ended(run_id).status is RunStatus.CANCELLED


def wait_ended(flows: FleetWorkflows, run_id: UUID, count: int) -> None:
    """Wait until so many executions of a run have completed."""
    wait_until(lambda: flows.fleet.scalar(_ENDED, id=run_id) >= count, f"{count} have completed")


_UNDONE = text("""
SELECT count(*), count(*) FILTER (WHERE status = 'completed'), max(attempt)
FROM executions WHERE run_id = :id AND step_no > 3
""")


@pytest.mark.failure("W23")
def test_a_run_is_undone_once_though_it_is_cancelled_and_a_worker_is_killed(
    flows: FleetWorkflows,
) -> None:
    fleet = flows.fleet
    fleet.beat()
    first = fleet.worker("w1")
    paths = {"diary": str(fleet.diary), "gate": str(fleet.gate)}
    each = {"task": "noop", "with": paths, "undo": {"task": "take_back"}}
    steps: Steps = {
        "one": each,
        "all": {**each, "map": str(list(range(40))), "needs": ["one"]},
        "bad": {"task": "refuse", "with": {"diary": str(fleet.diary)}, "needs": ["all"]},
    }
    run_id = flows.start(flows.define("undone", steps))
    wait_until(lambda: len(fleet.diary_lines()) > 2, "undo tasks run")
    fleet.worker("w2")
    first.kill()
    assert flows.runs.cancel(fleet.actor, run_id).status is RunStatus.COMPENSATING
    fleet.open_gate()

    ran = flows.ended(run_id, within=120)

    assert (ran.status, ran.run.compensation) == (RunStatus.FAILED, Compensation.COMPENSATED)
    with fleet.container.database.autocommit() as connection:
        made, completed, attempts = connection.execute(_UNDONE, {"id": run_id}).one()
    assert (made, completed) == (41, 41)
    assert attempts > 1, "some were running on the killed worker"
    of_one, of_all = ran.steps["one.undo"].started_at, ran.steps["all.undo"].completed_at
    assert of_one is not None
    assert of_all is not None
    assert of_one >= of_all
