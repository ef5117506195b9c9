"""Pools (E9): threads, prefork with autoscale, solo; and a worker that lasts (B2)."""

import os
import re
import signal
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from uuid import UUID

import httpx
import pytest
from celery.result import AsyncResult
from sqlalchemy import text

from celeriac.db import plain_tasks
from celeriac.domain.executions.states import CeleryState, Status
from celeriac.domain.plain_tasks import EndCounts
from tests.e2e.celery.conftest import OWN_TASKS
from tests.support.celery_commands import inspect
from tests.support.fleet import Fleet
from tests.support.programs import Program
from tests.support.waiting import wait_until

_MANY = 2_000


@pytest.mark.requirement("E9")
def test_autoscale_grows_with_the_work_and_shrinks_after_it(fleet: Fleet, beat: Program) -> None:
    worker = fleet.worker(
        "growing", pool="prefork", slots=1, options=("-Q", "growing", "--autoscale", "3,1")
    )
    gate = fleet.home / "autoscale-gate"
    task = fleet.task("hold", queue="growing")
    ids = [fleet.submit(task, diary=str(fleet.diary), gate=str(gate)) for _ in range(3)]
    wait_until(lambda: _running(fleet, ids) == 3, "three children run at once", within=40)
    wait_until(lambda: _processes(fleet, "growing") == 3, "all three have reported")
    gate.touch()
    assert {done.status for done in fleet.wait_terminal(ids)} == {Status.COMPLETED}
    hosts = {fleet.get(each).worker_hostname for each in ids}
    assert len(hosts) == 3, f"one process ran several: {hosts}"
    _end(worker)
    assert _processes(fleet, "growing") == 0, "a child has not signed off"


@pytest.mark.requirement("E9")
@pytest.mark.parametrize(("pool", "slots"), [("solo", 1), ("threads", 4)])
def test_every_pool_runs_coroutines_and_children(
    fleet: Fleet, beat: Program, pool: str, slots: int
) -> None:
    worker = fleet.worker(f"{pool}-1", pool=pool, slots=slots, options=("-Q", f"only-{pool}"))
    _run_all_kinds(fleet, pool)
    _end(worker)


@pytest.mark.requirement("B7", "D2", "E9")
def test_prefork_runs_them_and_counts_killed_plain_tasks_once(
    fleet: Fleet, beat: Program, http: httpx.Client
) -> None:
    """One past its hard time limit has failed; one that is delivered again has not ended."""
    started, gate = fleet.home / "stuck-started", fleet.home / "stuck-gate"
    again_started, again_gate = fleet.home / "again-started", fleet.home / "again-gate"
    # as long as a lease lasts, only the parent can say that nothing runs in a killed child
    worker = fleet.lasting_worker(
        "prefork-1",
        pool="prefork",
        slots=2,
        options=("-Q", "only-prefork", *OWN_TASKS),
        CELERIAC_WORKER_LEASE_SECONDS="600",
    )
    _run_all_kinds(fleet, "prefork")

    def send(name: str, *files: Path, **limits: float) -> AsyncResult:
        args = [str(file) for file in files]
        return fleet.celery.send_task(name, args=args, queue="only-prefork", **limits)

    def runs(diary: Path = started) -> list[int]:
        return [int(pid) for pid in diary.read_text().split()] if diary.exists() else []

    limited = send("plain.stick", started, gate, soft_time_limit=0.2, time_limit=0.4)
    limited.get(timeout=60, propagate=False)
    assert (limited.state, len(runs())) == (CeleryState.FAILURE, 1)
    wait_until(lambda: _ends(fleet, "plain.stick").ended > 0, "its end is counted")
    assert _ends(fleet, "plain.stick") == EndCounts(failed=1)

    send("plain.again", again_started, again_gate, soft_time_limit=0.5, time_limit=1)
    wait_until(lambda: len(runs(again_started)) == 2, "its limit has it delivered again")
    again_gate.touch()
    wait_until(lambda: _ends(fleet, "plain.again").completed > 0, "its end is counted")
    assert _ends(fleet, "plain.again") == EndCounts(completed=1)

    killed = send("plain.stick", started, gate)
    wait_until(lambda: len(runs()) == 2, "the other one runs")
    wait_until(lambda: _plain_running(fleet, runs()[1]) == 1, "its process has told")
    os.kill(runs()[1], signal.SIGKILL)
    wait_until(lambda: len(runs()) == 3, "it is delivered again")
    wait_until(lambda: _plain_running(fleet, runs()[1]) == 0, "nothing runs in the killed child")
    gate.touch()
    killed.get(timeout=60)
    wait_until(lambda: _ends(fleet, "plain.stick").completed > 0, "its end is counted")
    assert _ends(fleet, "plain.stick") == EndCounts(completed=1, failed=1), (
        "each of the two counts once"
    )
    sitrep = partial(http.get, "/api/v1/scheduler/sitrep", params={"scope": "instance"})
    wait_until(lambda: sitrep().json()["plain_tasks"]["data"]["running"] == 0, "none runs")
    _end(worker)


def _run_all_kinds(fleet: Fleet, pool: str) -> None:
    ids = [
        fleet.submit(fleet.task(function, queue=f"only-{pool}"), **variables)
        for function, variables in (
            ("noop", {"number": 1}),
            ("plain_nap", {"diary": str(fleet.diary), "seconds": 0}),
            ("tell", {}),
        )
        for _ in range(2)
    ]
    assert {done.status for done in fleet.wait_terminal(ids)} == {Status.COMPLETED}
    assert inspect(fleet, "stats", f"{pool}-1")["total"]["celeriac.tasks.execution.run"] >= 1


def _ends(fleet: Fleet, name: str) -> EndCounts:
    with fleet.container.database.autocommit() as connection:
        return plain_tasks.by_name(connection).get(name, EndCounts())


def _plain_running(fleet: Fleet, pid: int) -> int:
    query = text(
        "SELECT coalesce(sum(plain_running), 0) FROM workers"
        " WHERE hostname = 'prefork-1@fleet' AND pid = :pid"
    )
    return int(fleet.scalar(query, pid=pid))


@pytest.mark.requirement("A8")
def test_children_are_replaced_after_their_share_of_messages(fleet: Fleet, beat: Program) -> None:
    worker = fleet.worker(
        "recycling",
        pool="prefork",
        slots=1,
        options=("-Q", "recycled"),
        CELERIAC_CELERY_WORKER_MAX_TASKS_PER_CHILD="2",
        PYTHONPROFILEIMPORTTIME="1",
    )
    task = fleet.task("note", queue="recycled")
    ran: Counter[int] = Counter()
    for _ in range(5):  # one after the other: each comes with a message of its own
        (done,) = fleet.wait_terminal([fleet.submit(task, diary=str(fleet.diary))])
        ran[done.result["pid"]] += 1
    assert max(ran.values()) <= 2, f"a child ran more than its share: {ran}"
    assert len(ran) >= 3
    _end(worker)
    for module in ("pydantic_ai", "celeriac.agents.llm.runner", "celeriac.agents.python.runner"):
        imported = re.findall(rf"\| +{re.escape(module)}$", worker.log.read_text(), re.MULTILINE)
        assert len(imported) == 1, f"{module} must be imported once, before the children"


@pytest.mark.requirement("B2")
def test_a_worker_stays_up_through_thousands_of_tasks(fleet: Fleet, worker: Program) -> None:
    pid = worker.pid
    ids = fleet.batch(fleet.task("noop"), [{"number": number} for number in range(_MANY)])
    wait_until(lambda: fleet.ended(ids) == _MANY, f"all {_MANY} have ended", within=90)
    fleet.assert_consistent()
    done = text("SELECT count(*) FROM executions WHERE id = ANY(:ids) AND status = 'completed'")
    assert fleet.scalar(done, ids=list(ids)) == _MANY
    assert (worker.exit_code, worker.pid) == (None, pid)
    assert inspect(fleet, "ping") == {"ok": "pong"}
    assert not inspect(fleet, "active"), "a slot is still taken"


def _running(fleet: Fleet, ids: Sequence[UUID]) -> int:
    query = text("SELECT count(*) FROM executions WHERE id = ANY(:ids) AND status = 'running'")
    return int(fleet.scalar(query, ids=list(ids)))


def _processes(fleet: Fleet, name: str) -> int:
    query = text("SELECT count(*) FROM workers WHERE hostname = :name AND stopped_at IS NULL")
    return int(fleet.scalar(query, name=f"{name}@fleet"))


def _end(worker: Program) -> None:
    worker.terminate()
    assert worker.wait_end() == 0, worker.output()
