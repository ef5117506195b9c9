"""One set of ids from the HTTP request to the child process, in every log file (A15, A16)."""

from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest

from celeriac.domain.tasks import RetryPolicy
from tests.support.fleet import Fleet
from tests.support.logfiles import json_lines
from tests.support.programs import Program
from tests.support.waiting import wait_until

pytestmark = pytest.mark.requirement("A15", "A16")

_IDS = ("request_id", "user_id", "task_id", "execution_id", "celery_task_id")
_STEPS = {"execution.created", "execution.queued", "execution.picked_up", "execution.completed"}
_SOON = RetryPolicy(base_seconds=0.1)


def test_an_execution_carries_its_requests_ids_to_its_end(
    fleet: Fleet, worker: Program, http: httpx.Client
) -> None:
    request_id = f"order-{uuid4().hex[:8]}"
    ids = _execute(fleet, http, "tell", request_id)
    lines = _lines_of(fleet, ids["execution_id"])
    # a quick worker picks up what the API is just about to tell
    assert {line["event"] for line in lines} >= _STEPS
    assert {line["request_id"] for line in lines} == {request_id}
    assert {line["service"] for line in lines} == {"api", "worker"}
    for line in _of_the_worker(lines):
        assert {name: line.get(name) for name in _IDS} == ids, line["event"]
    told = {line["event"]: line for line in lines}
    assert told["told through the context"]["fields"] == {"city": "Oslo"}
    assert told["told through logging"]["logger"] == "shop"
    assert "traceback" not in told["execution.completed"]


def test_the_lines_of_a_child_process_carry_them_too(
    fleet: Fleet, worker: Program, http: httpx.Client
) -> None:
    request_id = f"order-{uuid4().hex[:8]}"
    ids = _execute(fleet, http, "plain_tell", request_id)
    lines = _lines_of(fleet, ids["execution_id"])
    told = {line["event"]: line for line in lines if str(line["event"]).startswith("told")}
    assert set(told) == {
        "told through the context", "told through logging", "told through print",
    }  # fmt: skip
    for line in told.values():
        assert {name: line.get(name) for name in _IDS} == ids, line["event"]
    assert fleet.get(UUID(ids["execution_id"])).result != worker.pid, "it ran in no child"


def test_the_ids_stay_when_another_attempt_follows(
    fleet: Fleet, worker: Program, http: httpx.Client
) -> None:
    """The keeper sends the second attempt, without any request of its own."""
    request_id = f"order-{uuid4().hex[:8]}"
    ids = _execute(fleet, http, "tell", request_id, {"times": 1}, retry=_SOON)
    lines = _lines_of(fleet, ids["execution_id"], attempts=2)
    assert {line["service"] for line in lines} == {"api", "worker", "beat"}
    assert {line.get("request_id") for line in lines} == {request_id}
    assert {line.get("user_id") for line in _of_the_worker(lines)} == {ids["user_id"]}
    assert [line["event"] for line in lines].count("execution.picked_up") == 2


def test_each_service_has_its_file_and_each_execution_its_own(
    fleet: Fleet, worker: Program, http: httpx.Client
) -> None:
    request_id = f"order-{uuid4().hex[:8]}"
    ids = _execute(fleet, http, "tell", request_id, {"times": 1}, retry=_SOON)
    lines = _lines_of(fleet, ids["execution_id"], attempts=2)
    for service, file in (
        ("api", "api.log"),
        ("worker", "celery-worker.log"),
        ("beat", "celery-beat.log"),
    ):
        of_service = [line for line in lines if line["service"] == service]
        assert of_service, f"{service} has told nothing"
        stored = json_lines(_logs(fleet) / file)
        assert all(line in stored for line in of_service), file
        assert {line["service"] for line in stored} == {service}, f"{file} has others' lines"
    requested = [
        line
        for line in json_lines(_logs(fleet) / "api.log")
        if line.get("request_id") == request_id
    ]
    events = [line["event"] for line in requested]
    assert events[0] == "execution.requested"
    assert events[-1] == "api.request", "the request's own line comes last"


def _execute(
    fleet: Fleet,
    http: httpx.Client,
    function: str,
    request_id: str,
    variables: dict[str, Any] | None = None,
    **spec: Any,
) -> dict[str, str]:
    """Run a function over HTTP to its end; return the ids that its lines must carry."""
    task = fleet.task(function, **spec)
    answer = http.post(
        f"/api/v1/tasks/{task}/execute",
        json={"variables": variables or {}},
        headers={"X-Request-ID": request_id},
    )
    assert answer.status_code == 202, answer.text
    assert answer.headers["X-Request-ID"] == request_id
    (done,) = fleet.wait_terminal([UUID(answer.json()["execution_id"])])
    assert done.celery_task_id is not None
    return {
        "request_id": request_id,
        "user_id": str(done.owner_id),
        "task_id": str(task),
        "execution_id": str(done.id),
        "celery_task_id": done.celery_task_id,
    }


def _lines_of(fleet: Fleet, execution_id: str, *, attempts: int = 1) -> list[dict[str, Any]]:
    """Return a completed execution's log file, by time, once every process has written to it."""
    file = _logs(fleet) / f"task-execution-{execution_id}.log"

    def complete() -> bool:
        events = [line["event"] for line in json_lines(file)] if file.exists() else []
        return "execution.completed" in events and events.count("execution.queued") == attempts

    wait_until(complete, f"{file.name} is complete")
    return sorted(json_lines(file), key=lambda line: str(line["timestamp"]))


def _of_the_worker(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [line for line in lines if line["service"] == "worker"]


def _logs(fleet: Fleet) -> Path:
    return fleet.home / "celeriac" / "logs"
