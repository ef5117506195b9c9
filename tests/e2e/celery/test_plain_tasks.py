"""Plain Celery tasks beside executions: `.delay()`, their states, results and times (B3, B4)."""

from uuid import UUID

import httpx
import pytest
import redis
from sqlalchemy import text

from celeriac.domain.executions.states import CeleryState
from celeriac.kit.json_types import JsonObject, loads
from tests.support.celery_commands import inspect, library_user
from tests.support.fleet import Fleet
from tests.support.programs import Program
from tests.support.servers import ValkeyServer
from tests.support.waiting import wait_until

_DELAY = """
import json
from celeriac.celery import app
from celeriac.worker.tasks import health_check, ping
first, second = ping.delay(), health_check.apply_async()
print(json.dumps({"id": first.id, "pong": first.get(timeout=60), "state": first.state,
                  "health": second.get(timeout=60)}))
"""
_FROM_A_THREAD = """
import json
from concurrent.futures import ThreadPoolExecutor
import celeriac.celery
from celeriac.worker.tasks import ping
with ThreadPoolExecutor(1) as pool:
    result = pool.submit(ping.delay).result()
print(json.dumps({"pong": result.get(timeout=60)}))
"""


@pytest.mark.requirement("A11", "B3")
def test_a_library_user_delays_ping_and_health_check(fleet: Fleet, worker: Program) -> None:
    answer = library_user(fleet, _DELAY)
    assert str(UUID(answer["id"])) == answer["id"]
    assert (answer["pong"], answer["state"]) == ("pong", "SUCCESS")
    health = answer["health"]
    assert (health["worker"], health["pool"], health["database"]) == ("w1@fleet", "thread", "ok")
    assert health["workers"] >= 1


@pytest.mark.requirement("B3")
def test_tasks_are_sent_from_any_thread(fleet: Fleet, worker: Program) -> None:
    """Web servers call from threads; Celery's own idea of the current app is per thread."""
    assert library_user(fleet, _FROM_A_THREAD) == {"pong": "pong"}


@pytest.mark.requirement("B3", "B4")
def test_results_lie_in_redis_for_the_time_that_is_set(
    fleet: Fleet, worker: Program, valkey: ValkeyServer
) -> None:
    sent = fleet.celery.send_task("plain.echo", args=[{"sum": 3}], expires=60)
    assert sent.get(timeout=60) == {"sum": 3}
    key = f"celery-task-meta-{sent.id}"
    with redis.Redis.from_url(valkey.url(2)) as results:
        stored = results.get(key)
        assert stored is not None, "the result is not in database 2"
        assert 3500 < results.ttl(key) <= 3600, "the default is an hour"
    meta = loads(stored)
    assert (meta["status"], meta["result"]) == ("SUCCESS", {"sum": 3})
    assert (meta["name"], meta["worker"]) == ("plain.echo", "w1@fleet"), "results aren't extended"


@pytest.mark.requirement("B4")
def test_the_time_of_results_is_settable(fleet: Fleet, valkey: ValkeyServer) -> None:
    fleet.worker("brief", options=("-Q", "brief"), CELERIAC_CELERY_RESULT_EXPIRES="60")
    sent = fleet.celery.send_task("celeriac.tasks.monitoring.ping", queue="brief")
    sent.get(timeout=60)
    with redis.Redis.from_url(valkey.url(2)) as results:
        assert 0 < results.ttl(f"celery-task-meta-{sent.id}") <= 60


@pytest.mark.requirement("B4")
def test_a_task_is_pending_then_started_then_a_success(
    fleet: Fleet, worker: Program, valkey: ValkeyServer
) -> None:
    started, gate = fleet.home / "plain-started", fleet.home / "plain-gate"
    task_id = str(fleet.celery.send_task("plain.hold", args=[str(started), str(gate)]).id)
    wait_until(started.exists, "it runs")
    wait_until(lambda: _meta(valkey, task_id), "the result backend has heard of it")
    assert _meta(valkey, task_id)["status"] == CeleryState.STARTED
    assert [task["id"] for task in inspect(fleet, "active")] == [task_id]
    gate.touch()
    wait_until(lambda: _meta(valkey, task_id)["status"] == CeleryState.SUCCESS, "it has ended")
    assert _meta(valkey, task_id)["result"] == "let go"


@pytest.mark.requirement("B4", "B6")
def test_a_failure_keeps_its_traceback(fleet: Fleet, worker: Program) -> None:
    failed = fleet.celery.send_task("plain.fail", args=["no luck"])
    failed.get(timeout=60, propagate=False)
    assert failed.state == CeleryState.FAILURE
    assert "StumbleError: no luck" in failed.traceback
    assert "plain_tasks.py" in failed.traceback, "the place where it was raised is missing"


@pytest.mark.requirement("D2")
def test_plain_tasks_count_in_the_situation_report(
    fleet: Fleet, worker: Program, http: httpx.Client
) -> None:
    """The heartbeat of the worker stores how they ended; executions' own tasks are not among."""
    started, gate = fleet.home / "counted-started", fleet.home / "counted-gate"
    fleet.celery.send_task("plain.mark").get(timeout=60)
    marked = text("SELECT count(*) FROM plain_task_sums WHERE name = 'plain.mark'")
    wait_until(lambda: fleet.scalar(marked) > 0, "what the worker ended before is counted")
    before = _plain(http)
    fleet.celery.send_task("plain.hold", args=[str(started), str(gate)])
    fleet.celery.send_task("plain.fail", args=["no luck"]).get(timeout=60, propagate=False)
    for _ in range(3):
        fleet.celery.send_task("plain.echo", args=[1]).get(timeout=60)
    wait_until(lambda: _plain(http)["running"] == 1, "the one that runs is counted")
    wait_until(lambda: _recent(http).get("Hold") == ("in_progress", "default"), "as a recent task")
    gate.touch()
    late = fleet.celery.send_task("plain.echo", args=[1], expires=-1)
    late.get(timeout=60, propagate=False)

    def added() -> JsonObject:
        now = _plain(http)["totals"]
        return {name: now[name] - before["totals"][name] for name in now}

    expected = {"completed": 4, "failed": 1, "cancelled": 1}
    wait_until(lambda: added() == expected, "all have been counted")
    wait_until(lambda: _plain(http)["running"] == 0, "none runs")
    wait_until(lambda: _recent(http).get("Hold") == ("completed", "default"), "its end is shown")
    assert _recent(http)["Fail"] == ("failed", "default")
    assert _recent(http)["Echo"] == ("cancelled", "default"), "the latest one had expired"


def _recent(http: httpx.Client) -> dict[str, tuple[str, str]]:
    """Return status and queue of the latest plain task of each name."""
    params = {"scope": "instance", "type": "celery", "limit": "100"}
    answer = http.get("/api/v1/scheduler/sitrep", params=params).raise_for_status()
    items = answer.json()["recent_tasks"]["data"]["items"]
    return {each["name"]: (each["status"], each["queue"]) for each in reversed(items)}


def _plain(http: httpx.Client) -> JsonObject:
    answer = http.get("/api/v1/scheduler/sitrep", params={"scope": "instance"}).raise_for_status()
    plain: JsonObject = answer.json()["plain_tasks"]["data"]
    return plain


def _meta(valkey: ValkeyServer, task_id: str) -> JsonObject:
    with redis.Redis.from_url(valkey.url(2)) as results:
        stored = results.get(f"celery-task-meta-{task_id}")
    meta: JsonObject = loads(stored) if stored else {}
    return meta
