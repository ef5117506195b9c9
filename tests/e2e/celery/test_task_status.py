"""How Celery tasks stand, told over HTTP (B3, B4, D4): plain ones and those of executions."""

import json
import zlib
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
import redis
from celery.backends.base import COMPRESSED_PAYLOAD_MAGIC

from tests.support.fleet import Fleet
from tests.support.programs import Program
from tests.support.servers import ValkeyServer
from tests.support.waiting import wait_until

_PING = "celeriac.tasks.monitoring.ping"


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
    fleet.celery.control.revoke(revoked, destination=["w1@fleet"], reply=True, timeout=30)
    fleet.celery.send_task("plain.echo", args=["late"], task_id=revoked)
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


def test_each_execution_of_a_batch_has_a_celery_task_of_its_own(
    http: httpx.Client, fleet: Fleet, worker: Program
) -> None:
    """Also those that a slot took one after the other, without a message for each."""
    task = fleet.task("noop")
    ids = fleet.batch(task, [{"n": number} for number in range(60)])
    fleet.wait_terminal(ids)
    assert len({fleet.get(each).celery_task_id for each in ids}) == len(ids)
    for execution_id in ids:
        execution = http.get(f"/api/v1/task-executions/{execution_id}").json()
        told = _get(http, execution["celery_task_id"])
        assert (told["execution_id"], told["status"]) == (str(execution_id), "SUCCESS")


def _meta(**changes: Any) -> bytes:
    meta = {
        "status": "SUCCESS", "result": 1, "traceback": None, "children": [],
        "date_done": "2026-11-26T04:00:00+00:00", "task_id": "x", "retries": 0, "name": "n",
    }  # fmt: skip
    return json.dumps({**meta, **changes}).encode()


_FORGED = {"exc_type": "SystemExit", "exc_message": ["x"], "exc_module": "builtins"}
BROKEN_RESULTS = {
    "garbage": b"garbage", "no UTF-8": b"\xff\xfe\x80", "empty list": b"[]", "number": b"5",
    "null": b"null", "text": b'"x"', "empty object": b"{}", "nested": b"[" * 100_000,
    "pickle": b"\x80\x04]\x94.",
    "unknown type": b'{"__type__": "datetime", "__value__": 5}',
    "status a number": _meta(status=5), "status a list": _meta(status=[]),
    "status null": _meta(status=None), "status of its own": _meta(status="COOKING"),
    "date a number": _meta(date_done=5), "no date": _meta(date_done="yesterday"),
    "date without zone": _meta(date_done="2026-11-26T04:00:00"),
    "retries a text": _meta(retries="many"), "retries a list": _meta(retries=[1]),
    "retries beyond 64 bits": _meta(retries=2**70), "name a list": _meta(name=[1]),
    "worker a number": _meta(worker=5), "traceback a list": _meta(traceback=["x"]),
    "half a character": _meta(result="\ud800"), "result beyond 64 bits": _meta(result=2**70),
    "failure without error": _meta(status="FAILURE", result=None),
    "failure with a text": _meta(status="FAILURE", result="x"),
    "failure with a list": _meta(status="FAILURE", result=[1]),
    "failure forged": _meta(status="FAILURE", result=_FORGED),
    "failure of no class": _meta(status="FAILURE", result={**_FORGED, "exc_module": "os"}),
    "compressed": COMPRESSED_PAYLOAD_MAGIC + b"gzip\0" + zlib.compress(_meta()),
    "failure of wrong types": _meta(status="FAILURE", result={**_FORGED, "exc_type": [1]}),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN_RESULTS)
def test_a_broken_result_is_a_clear_problem(
    http: httpx.Client, valkey: ValkeyServer, name: str
) -> None:
    task_id = str(uuid4())
    with redis.Redis.from_url(valkey.url(2)) as results:
        results.set(f"celery-task-meta-{task_id}", BROKEN_RESULTS[name])
    _assert_told(http, task_id)


def test_a_result_of_another_redis_type_is_a_clear_problem(
    http: httpx.Client, valkey: ValkeyServer
) -> None:
    task_id = str(uuid4())
    with redis.Redis.from_url(valkey.url(2)) as results:
        results.lpush(f"celery-task-meta-{task_id}", "x")
    assert _assert_told(http, task_id).status_code == 409


def _assert_told(http: httpx.Client, task_id: str) -> httpx.Response:
    answer = http.get(f"/api/v1/celery-tasks/{task_id}")
    assert answer.status_code in {200, 409}, answer.text
    if answer.status_code == 409:
        assert answer.json()["code"] == "result_unreadable"
        assert f"celery-task-meta-{task_id}" in answer.json()["detail"]
    return answer


def _send(fleet: Fleet, name: str, *arguments: str | float) -> str:
    return str(fleet.celery.send_task(name, args=arguments).id)


def _get(http: httpx.Client, task_id: str) -> dict[str, Any]:
    answer = http.get(f"/api/v1/celery-tasks/{task_id}")
    assert answer.status_code == 200, answer.text
    told: dict[str, Any] = answer.json()
    return told


def _wait(http: httpx.Client, task_id: str, status: str) -> dict[str, Any]:
    wait_until(lambda: _get(http, task_id)["status"] == status, f"{task_id} is {status}")
    return _get(http, task_id)
