"""Cancellations and deadlines of runs on real workers: what runs stops, and nothing begins."""

import os
import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import text

from celeriac.domain.executions.states import Status
from celeriac.domain.workflows.states import Compensation, RunStatus
from tests.support.fleet_workflows import FleetWorkflows, Steps
from tests.support.waiting import wait_until

pytestmark = pytest.mark.requirement("E3")

_STATUSES = text("""
SELECT status, started_at IS NOT NULL AS began, count(*) FROM executions
WHERE run_id = ANY(:runs) GROUP BY 1, 2
""")
_STOPPED = text("""
SELECT extract(epoch FROM max(e.completed_at) - max(r.cancel_requested_at))
FROM executions e JOIN workflow_runs r ON r.id = e.run_id WHERE r.id = :id
""")
_MADE_AND_BEGAN = text("SELECT count(*), count(started_at) FROM executions WHERE run_id = :id")
_ENDS = text("""
SELECT count(*) FROM events WHERE execution_id = ANY(:runs)
    AND type IN ('completed', 'failed', 'cancelled')
""")


def statuses(flows: FleetWorkflows, run_id: UUID) -> dict[tuple[str, bool], int]:
    """Count the executions of a run and of those below it, by status and whether they began."""
    with flows.fleet.container.database.autocommit() as connection:
        rows = connection.execute(_STATUSES, {"runs": flows.below(run_id)})
        return {(row[0], row[1]): row[2] for row in rows}


def held(flows: FleetWorkflows, name: str) -> dict[str, Any]:
    """Return variables of an agent that waits for a file that never comes."""
    notes = flows.fleet.notes
    return {"diary": str(notes / f"{name}-diary"), "gate": str(notes / f"{name}-gate")}


@pytest.mark.failure("W6")
def test_a_thousand_items_end_with_their_run(
    flows: FleetWorkflows, record_property: Callable[[str, object], None]
) -> None:
    """The running ones are stopped, the waiting ones never begin, and nothing follows."""
    waits = held(flows, "w6")
    steps: Steps = {
        "each": {"task": "pick", "map": "input.list", "parallel": 100, "with": waits},
        "after": {"task": "pick", "needs": ["each"]},
    }
    workflow = flows.define("w6", steps, input={"list": "array"})
    run_id = flows.start(workflow, list=list(range(1000)))
    flows.wait_lines(flows.fleet.notes / "w6-diary", 100)

    flows.runs.cancel(flows.fleet.actor, run_id)

    ran = flows.ended(run_id)
    seconds = float(flows.fleet.scalar(_STOPPED, id=run_id))
    record_property("seconds_to_end_1000_items", seconds)
    assert (ran.status, ran.statuses["after"]) == (RunStatus.CANCELLED, "cancelled")
    assert statuses(flows, run_id) == {("cancelled", True): 100, ("cancelled", False): 900}
    assert len((flows.fleet.notes / "w6-diary").read_text().split()) == 100


@pytest.mark.failure("W17")
def test_a_deadline_ends_an_unfinished_map_and_fails_its_run(flows: FleetWorkflows) -> None:
    steps: Steps = {
        "each": {"task": "pick", "map": "[1, 2, 3]", "parallel": 2, "with": held(flows, "w17")},
        "after": {"task": "pick", "needs": ["each"]},
        "failed": {"task": "pick", "run": "failure", "with": {"value": "${{ run.error.code }}"}},
    }
    run_id = flows.start(flows.define("w17", steps, deadline="2s"))

    ran = flows.ended(run_id)

    assert (ran.status, ran.run.error_code) == (RunStatus.FAILED, "deadline")
    assert ran.statuses == {"each": "cancelled", "after": "cancelled", "failed": "completed"}
    assert [item.status for item in ran.items("each")] == [Status.CANCELLED] * 3
    assert ran.items("failed")[0].result == "deadline"


@pytest.mark.failure("W21")
def test_a_cancellation_reaches_three_levels_of_workflows(flows: FleetWorkflows) -> None:
    steps: Steps = {"leaf": {"task": "pick", "with": held(flows, "w21")}}
    for level in range(3):
        flows.define(f"w21-{level}", steps)
        steps = {
            "below": {"workflow": f"w21-{level}", "map": "[1, 2]"},
            "tail": {"task": "pick", "needs": ["below"]},
        }
    run_id = flows.start(flows.define("w21", steps))
    flows.wait_lines(flows.fleet.notes / "w21-diary", 8)

    flows.runs.cancel(flows.fleet.actor, run_id)

    flows.ended(run_id)
    below = flows.below(run_id)
    assert len(below) == 1 + 2 + 4 + 8
    assert {flows.ran(each).status for each in below} == {RunStatus.CANCELLED}
    assert statuses(flows, run_id) == {("cancelled", True): 8}


_RACES = int(os.environ.get("RACES", "100"))


@pytest.mark.failure("W22")
def test_a_run_that_is_cancelled_at_any_moment_has_one_outcome(flows: FleetWorkflows) -> None:
    """And nothing begins after the answer, however close the end was."""
    steps: Steps = {
        "a": {"task": "pick", "map": "[1, 2]"},
        "b": {"task": "pick", "needs": ["a"]},
        "c": {"task": "pick", "needs": ["b"]},
    }
    workflow = flows.define("w22", steps)
    moments = random.Random(22)

    def made_and_began(run_id: UUID) -> tuple[int, int]:
        with flows.fleet.container.database.autocommit() as connection:
            row = connection.execute(_MADE_AND_BEGAN, {"id": run_id}).one()
            return row[0], row[1]

    def race(moment: tuple[int, int]) -> tuple[UUID, tuple[int, int]]:
        run_id = flows.start(workflow)
        wait_until(lambda: made_and_began(run_id) >= moment, f"{moment} were made and began")
        flows.runs.cancel(flows.fleet.actor, run_id)
        return run_id, made_and_began(run_id)

    with ThreadPoolExecutor(4) as pool:
        made = [moments.randint(0, 4) for _ in range(_RACES)]
        raced = dict(pool.map(race, [(each, moments.randint(0, each)) for each in made]))

    ended = flows.all_ended(list(raced))
    assert {ran.status for ran in ended} <= {RunStatus.CANCELLED, RunStatus.COMPLETED}
    for ran in ended:
        requested = ran.run.cancel_requested_at is not None
        assert ran.status is (RunStatus.CANCELLED if requested else RunStatus.COMPLETED)
        assert made_and_began(ran.id) == raced[ran.id], "something has begun after the answer"
    assert flows.fleet.scalar(_ENDS, runs=list(raced)) == len(raced)


@pytest.mark.failure("W23")
def test_three_done_steps_are_undone_3_2_1_and_no_second_cancellation_stops_that(
    flows: FleetWorkflows,
) -> None:
    undo = held(flows, "w23-undo")
    steps: dict[str, Any] = {
        f"s{number}": {
            "task": "noop", "with": undo, "undo": {"task": "take_back"},
            "needs": [f"s{number - 1}"] if number > 1 else [],
        }
        for number in (1, 2, 3)
    }  # fmt: skip
    steps["s4"] = {"task": "hold", "with": held(flows, "w23"), "needs": ["s3"]}
    run_id = flows.start(flows.define("w23", steps))
    flows.wait_lines(flows.fleet.notes / "w23-diary", 1)
    flows.runs.cancel(flows.fleet.actor, run_id)
    flows.wait_lines(flows.fleet.notes / "w23-undo-diary", 1)

    assert flows.runs.cancel(flows.fleet.actor, run_id).status is RunStatus.COMPENSATING
    (flows.fleet.notes / "w23-undo-gate").touch()

    ran = flows.ended(run_id)
    assert (ran.status, ran.run.compensation) == (RunStatus.CANCELLED, Compensation.COMPENSATED)
    order = [data["undoes"] for _, data in ran.events() if data.get("status") == "running"
             and "undoes" in data]  # fmt: skip
    assert order == ["s3", "s2", "s1"]
    made = flows.made(run_id)
    assert [made[f"s{number}.undo"] for number in (1, 2, 3)] == [1, 1, 1]
    assert ran.statuses["s4"] == "cancelled"
