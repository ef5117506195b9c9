"""An operator leaves a transaction open that has locked a row: only those wait that need it."""

from collections.abc import Sequence
from uuid import UUID

import pytest
from sqlalchemy import text

from celeriac.domain.budgets import Budget
from celeriac.domain.executions.model import SubmitRequest
from celeriac.domain.executions.options import RunOptions
from celeriac.domain.executions.states import Status
from tests.support.fleet import SHORT_TIMES, Fleet
from tests.support.outages import holding
from tests.support.waiting import wait_until

pytestmark = pytest.mark.requirement("B13")

LEASE_SECONDS = float(SHORT_TIMES["CELERIAC_WORKER_LEASE_SECONDS"])
STUCK = 10
"""More than a worker's pool has connections."""


def start(fleet: Fleet, *, budget: Budget | None = None) -> tuple[list[UUID], list[UUID]]:
    """Start executions that will need what is locked, and others; all run."""
    fleet.beat()
    fleet.worker(slots=STUCK + 4)
    task = fleet.task("bill")
    request = SubmitRequest(
        task_id=task,
        variables={"diary": str(fleet.diary), "gate": str(fleet.home / "other gate"), "model": "x"},
        options=RunOptions(budget=budget),
    )
    stuck = [fleet.container.submit(fleet.actor, request).execution_id for _ in range(STUCK)]
    others = [fleet.submit(task, diary=str(fleet.diary), gate=str(fleet.gate)) for _ in range(3)]
    wait_until(lambda: len(fleet.diary_lines()) == STUCK + 3, "all run")
    return stuck, others


def outlive(fleet: Fleet, ids: Sequence[UUID]) -> None:
    """Wait until their workers hold leases that begin after those of now have run out."""
    latest = fleet.scalar(text("SELECT max(lease_until) FROM workers"))
    query = text(
        "SELECT count(*) FROM executions e JOIN workers w ON w.id = e.worker_id"
        " WHERE e.id = ANY(:ids) AND (e.crash_count > 0"
        " OR w.lease_until > :then + make_interval(secs => :lease))"
    )
    wait_until(
        lambda: fleet.scalar(query, ids=list(ids), then=latest, lease=LEASE_SECONDS) == len(ids),
        "they hold newer leases",
    )


def assert_undisturbed(fleet: Fleet, ids: Sequence[UUID]) -> None:
    done = fleet.wait_terminal(ids, within=60)
    assert {each.status for each in done} == {Status.COMPLETED}
    assert {(each.attempt, each.crash_count) for each in done} == {(1, 0)}, "a lease was lost"
    assert [each.model_call_count for each in done] == [each.result for each in done]


def finish_stuck(fleet: Fleet, stuck: Sequence[UUID]) -> None:
    """Let those end that had to wait."""
    (fleet.home / "other gate").touch()
    assert_undisturbed(fleet, stuck)


def test_one_execution(fleet: Fleet) -> None:
    stuck, others = start(fleet)
    lock = f"SELECT id FROM executions WHERE id = '{stuck[0]}' FOR UPDATE"
    with holding(fleet.container.database.engine.url, lock):
        outlive(fleet, [*stuck[1:], *others])
        fleet.open_gate()
        assert_undisturbed(fleet, others)
        outlive(fleet, stuck[1:])
    (fleet.home / "other gate").touch()
    assert_undisturbed(fleet, stuck)


def test_a_budget(fleet: Fleet) -> None:
    stuck, others = start(fleet, budget=Budget(max_tokens=1_000_000))
    ids = ", ".join(f"'{each}'" for each in stuck)
    lock = f"SELECT budget_id FROM budget_windows WHERE budget_id IN ({ids}) FOR UPDATE"
    with holding(fleet.container.database.engine.url, lock):
        outlive(fleet, [*stuck, *others])
        fleet.open_gate()
        assert_undisturbed(fleet, others)
        outlive(fleet, stuck)
    finish_stuck(fleet, stuck)


def test_a_day_s_usage(fleet: Fleet) -> None:
    """Workers append to it and need no row of it; only the keeper's fold waits."""
    billed, others = start(fleet)
    rows = "FROM usage_days WHERE model = 'x'"
    wait_until(lambda: fleet.scalar(text(f"SELECT count(*) {rows}")), "usage is folded")
    with holding(fleet.container.database.engine.url, f"SELECT day {rows} FOR UPDATE"):
        outlive(fleet, [*billed, *others])
        fleet.open_gate()
        (fleet.home / "other gate").touch()
        assert_undisturbed(fleet, [*billed, *others])
