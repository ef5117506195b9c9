"""`celery -A celeriac …`: Celery's own commands find our workers (issue item 4, B2, B10)."""

import json
import re
from typing import Any

import httpx
import pytest

from celeriac.domain.executions.states import Status
from tests.support.celery_commands import celery
from tests.support.fleet import Fleet
from tests.support.programs import Program
from tests.support.waiting import wait_until

_FLOWER_USER = ("ops", "a password of tests")


@pytest.mark.requirement("B2")
def test_a_worker_answers_ping(fleet: Fleet, worker: Program) -> None:
    """It is found without a destination."""
    assert json.loads(celery(fleet, "inspect", "ping", "--json"))["w1@fleet"] == {"ok": "pong"}


def test_inspect_active_shows_the_running_execution(fleet: Fleet, worker: Program) -> None:
    gate = fleet.home / "active-gate"
    submitted = fleet.submitted(fleet.task("hold"), diary=str(fleet.diary), gate=str(gate))
    fleet.wait_status(submitted.execution_id, Status.RUNNING)
    (active,) = _inspect(fleet, "active")
    gate.touch()
    assert active["name"] == "celeriac.tasks.execution.run"
    assert active["id"] == submitted.celery_task_id
    assert active["args"] == [str(submitted.execution_id), 0]
    assert active["delivery_info"]["routing_key"] == "task_execution"
    fleet.wait_terminal([submitted.execution_id])


def test_a_terminated_execution_is_cancelled_and_its_process_lives(
    fleet: Fleet, worker: Program
) -> None:
    gate = fleet.home / "terminated-gate"
    submitted = fleet.submitted(fleet.task("hold"), diary=str(fleet.diary), gate=str(gate))
    other = fleet.submit(fleet.task("hold"), diary=str(fleet.diary), gate=str(gate))
    fleet.wait_status(submitted.execution_id, Status.RUNNING)
    fleet.wait_status(other, Status.RUNNING)
    celery(fleet, "control", "terminate", "SIGKILL", str(submitted.celery_task_id))
    fleet.wait_status(submitted.execution_id, Status.CANCELLED)
    gate.touch()
    (done,) = fleet.wait_terminal([other])
    assert (done.status, done.attempt) == (Status.COMPLETED, 1)


def test_inspect_registered_names_our_tasks_and_the_users(fleet: Fleet, worker: Program) -> None:
    assert {
        "celeriac.tasks.execution.run",
        "celeriac.tasks.monitoring.ping",
        "celeriac.tasks.monitoring.health_check",
        "plain.echo",
    } <= set(_inspect(fleet, "registered"))


def test_beat_sends_what_is_due(fleet: Fleet, worker: Program, beat: Program) -> None:
    """A batch is stored as `pending` and nobody but the keeper sends it."""
    ids = fleet.batch(fleet.task("noop"), [{"number": 1}])
    (done,) = fleet.wait_terminal(ids)
    assert done.result == {"number": 1}
    assert beat.exit_code is None


@pytest.mark.requirement("B10")
def test_flower_shows_our_worker_and_its_tasks(fleet: Fleet, worker: Program) -> None:
    user, password = _FLOWER_USER
    flower = fleet.program(
        "flower",
        ["-m", "celery", "-A", "celeriac", "flower", "--port=0", "--address=127.0.0.1",
         f"--basic-auth={user}:{password}"],
    )  # fmt: skip
    with httpx.Client(base_url=_address(flower), auth=_FLOWER_USER, timeout=30) as client:
        page = client.get("/workers")
        assert page.status_code == 200, page.text
        wait_until(lambda: "w1@fleet" in client.get("/workers").text, "the page shows the worker")
        wait_until(lambda: _workers(client), "Flower has asked the worker")
        (about,) = _workers(client).values()
        assert {queue["name"] for queue in about["active_queues"]} >= {
            "task_execution",
            "scheduled",
        }

        # Flower listens only once it has told the workers to send events
        def shown() -> bool:
            execution = fleet.submitted(fleet.task("noop"))
            fleet.wait_terminal([execution.execution_id])
            found = client.get(f"/api/task/info/{execution.celery_task_id}")
            if found.status_code != 200:
                return False
            task = found.json()
            known = (task["name"], task["state"])
            return bool(known == ("celeriac.tasks.execution.run", "SUCCESS"))

        wait_until(shown, "Flower shows a task of an execution")
    flower.terminate()
    assert flower.wait_end() == 0


def _inspect(fleet: Fleet, what: str) -> Any:
    """Return what `celery inspect` prints of the worker."""
    asked = celery(fleet, "inspect", what, "--destination", "w1@fleet", "--json")
    return json.loads(asked)["w1@fleet"]


def _address(flower: Program) -> str:
    """Wait until Flower serves, and return its address."""
    told = re.compile(r"http://127\.0\.0\.1:(?P<port>\d+)")

    def serves() -> bool:
        assert flower.exit_code is None, f"Flower has ended:\n{flower.output()}"
        return bool(told.search(flower.output()))

    wait_until(serves, "Flower serves")
    found = told.search(flower.output())
    assert found is not None
    return found[0]


def _workers(client: httpx.Client) -> dict[str, dict[str, list[dict[str, str]]]]:
    answer = client.get("/api/workers")
    assert answer.status_code == 200, answer.text
    workers: dict[str, dict[str, list[dict[str, str]]]] = answer.json()
    return {name: about for name, about in workers.items() if about.get("active_queues")}
