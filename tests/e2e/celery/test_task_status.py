"""How Celery tasks stand, told over HTTP (B3, B4, D4): plain ones and those of executions."""

from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest

from tests.support.celery_commands import library_user
from tests.support.fleet import Fleet
from tests.support.programs import Program
from tests.support.waiting import wait_until

_PING = "celeriac.tasks.monitoring.ping"
_SEND = """
import json
from celeriac.celery import app
result = app.send_task({name!r}, args={args!r})
print(json.dumps({{"id": result.id}}))
"""
_REVOKE_AND_SEND = """
import json
from celeriac.celery import app
app.control.revoke({task_id!r}, destination=["w1@fleet"], reply=True, timeout=10)
app.send_task("plain.echo", args=["late"], task_id={task_id!r})
print("{{}}")
"""


@pytest.mark.requirement("B3", "B4", "A11")
def test_a_plain_task_is_sent_and_followed_over_http(
    http: httpx.Client, fleet: Fleet, worker: Program
) -> None:
    answer = http.post("/api/v1/celery-tasks", json={"name": _PING})
    assert answer.status_code == 202, answer.text
    task_id = answer.json()["task_id"]
    assert str(UUID(task_id)) == task_id
    done = _wait(http, task_id, "SUCCESS")
    assert (done["name"], done["result"], done["worker"]) == (_PING, "pong", "w1@fleet")


@pytest.mark.requirement("B4", "D4")
def test_every_state_of_a_plain_task_is_told(
    http: httpx.Client, fleet: Fleet, worker: Program
) -> None:
    assert _get(http, str(uuid4()))["status"] == "PENDING", "what nobody knows is pending to Celery"

    gate = fleet.home / "status-gate"
    started = _send(fleet, "plain.hold", str(fleet.home / "status-started"), str(gate))
    assert _wait(http, started, "STARTED")["simple_status"] == "in_progress"
    gate.touch()
    assert _wait(http, started, "SUCCESS")["simple_status"] == "completed"

    failed = _wait(http, _send(fleet, "plain.fail", "no luck"), "FAILURE")
    assert failed["simple_status"] == "failed"
    error = failed["error"]
    assert (error["type"], error["message"]) == ("StumbleError", "no luck")
    assert "raise StumbleError(message)" in error["traceback"]

    stumbling = _send(fleet, "plain.stumble", "trips", 4)
    assert _wait(http, stumbling, "RETRY")["simple_status"] == "in_progress"
    assert _wait(http, stumbling, "SUCCESS")["result"] == "stands"

    revoked = str(uuid4())
    library_user(fleet, _REVOKE_AND_SEND.format(task_id=revoked))
    assert _wait(http, revoked, "REVOKED")["simple_status"] == "cancelled"


@pytest.mark.requirement("A1", "B4")
def test_the_task_of_an_execution_is_told_by_the_execution(
    http: httpx.Client, fleet: Fleet, worker: Program
) -> None:
    answer = http.post(f"/api/v1/tasks/{fleet.task('noop')}/execute", json={"variables": {"n": 1}})
    assert answer.status_code == 202, answer.text
    link = answer.json()["_links"]["celery_task"]
    wait_until(lambda: http.get(link).json()["status"] == "SUCCESS", "it has succeeded")
    told = http.get(link).json()
    assert told["execution_id"] == answer.json()["execution_id"]
    assert told["result"] == {"n": 1}
    assert told["worker"].startswith("w1@fleet")


def _send(fleet: Fleet, name: str, *arguments: str | float) -> str:
    return str(library_user(fleet, _SEND.format(name=name, args=list(arguments)))["id"])


def _get(http: httpx.Client, task_id: str) -> dict[str, Any]:
    answer = http.get(f"/api/v1/celery-tasks/{task_id}")
    assert answer.status_code == 200, answer.text
    told: dict[str, Any] = answer.json()
    return told


def _wait(http: httpx.Client, task_id: str, status: str) -> dict[str, Any]:
    wait_until(lambda: _get(http, task_id)["status"] == status, f"{task_id} is {status}")
    return _get(http, task_id)
