"""Metrics over HTTP: names, labels, who may read them, and what is left without a source."""

import re
import threading
from dataclasses import replace

import pytest
from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families
from pydantic import SecretStr
from sqlalchemy import text

from celeriac.db import maintenance, workers
from celeriac.domain.errors import UnavailableError
from celeriac.domain.executions.model import Completed, Failed, Failure
from celeriac.domain.metrics import MOST_TASKS
from celeriac.domain.operations import JobReport, WorkerReport
from celeriac.kit.ids import uuid7
from celeriac.services.operations import metrics
from celeriac.services.operations.rollups import Rollups
from celeriac.wiring.core import CoreServices
from tests.support.api import EXECUTE, Asker, assert_problem
from tests.support.asking import a_form, park
from tests.support.waiting import wait_until
from tests.support.working import claim, finish

TOKEN = "a-token-of-tests-alone-0123456789abcdef"
FAILED = Failed(Failure("agent_failed", "no such lead", {"type": "LookupError", "attempt": 1}))
Samples = dict[str, dict[frozenset[tuple[str, str]], float]]


@pytest.fixture
def reader(app_client: TestClient) -> Asker:
    """Who has the token for metrics."""
    app_client.app.state.services.metrics_token = SecretStr(TOKEN)  # type: ignore[attr-defined]
    return Asker(app_client, TOKEN)


@pytest.fixture(autouse=True)
def _asks_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "_KEPT_SECONDS", 0.0)


def samples(asker: Asker) -> Samples:
    response = asker.get("/metrics")
    assert response.status_code == 200, response.text
    assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
    found: Samples = {}
    for family in text_string_to_metric_families(response.text):
        assert family.documentation
        for each in family.samples:
            key = frozenset(each.labels.items())
            assert key not in found.setdefault(each.name, {}), "a series is there twice"
            found[each.name][key] = each.value
    return found


def value(found: Samples, name: str, **labels: str) -> float:
    return found[name][frozenset(labels.items())]


@pytest.mark.requirement("B12")
@pytest.mark.requirement("D7")
def test_metrics_say_what_ended_what_waits_and_who_works(
    ada: Asker, reader: Asker, container: CoreServices
) -> None:
    found = samples(reader)
    assert value(found, "celeriac_queue_backlog", queue="enrichment") == 0, "without any worker"
    assert value(found, "celeriac_queue_workers", queue="enrichment") == 0
    assert "celeriac_worker_up" not in found

    for outcome in (Completed({"summary": "a"}), FAILED):
        accepted = ada.post(EXECUTE, json={"variables": {"text": "a"}}).json()
        finish(container, claim(container, accepted["execution_id"]), outcome)
    waiting = ada.post(EXECUTE, json={"variables": {"text": "b"}}).json()["execution_id"]
    park(container, waiting, a_form())
    ada.post(EXECUTE, json={"variables": {"text": "c"}})
    ada.post(EXECUTE, json={"variables": {"text": "d"}, "delay_seconds": 3600})
    assert value(samples(reader), "celeriac_keeper_behind_seconds") > 0
    Rollups(container.database).fold(100)
    report = WorkerReport(
        id=uuid7(), hostname="celery@a", pid=1, pool="threads", slots=4, running=3, version="1",
        cpu_percent=150.0, memory_bytes=10**8, queues=("task_execution", "mine"),
    )  # fmt: skip
    with container.database.autocommit() as connection:
        workers.report(connection, report)
    found = samples(reader)

    task = {"workspace": "ada", "task": "summarise", "queue": "task_execution"}
    for status, expected in (("completed", 1), ("failed", 1), ("cancelled", 0)):
        assert value(found, "celeriac_executions_total", status=status, **task) == expected
    assert value(found, "celeriac_execution_run_seconds_count", queue="task_execution") == 2
    assert value(found, "celeriac_queue_backlog", queue="task_execution") == 1
    assert value(found, "celeriac_queue_oldest_age_seconds", queue="task_execution") > 0
    assert value(found, "celeriac_queue_workers", queue="mine") == 4
    assert value(found, "celeriac_worker_cpu_ratio", worker="celery@a") == 1.5
    assert value(found, "celeriac_worker_busy", worker="celery@a") == 3
    assert value(found, "celeriac_approvals_open") == 1
    assert value(found, "celeriac_submitted_last_minute") == 5
    assert value(found, "celeriac_keeper_behind_seconds") == 0
    assert value(found, "celeriac_redis_memory_bytes") > 0
    assert value(found, "celeriac_redis_connections") >= 1
    route = "/api/v1/tasks/{task}/execute"
    requests = found["celeriac_http_request_seconds_count"]
    assert requests[frozenset({"route": route, "method": "POST", "status": "202"}.items())] == 5
    assert not [key for name in found for key in found[name] if "celery@" in str(key)
                and not name.startswith("celeriac_worker_")]  # fmt: skip

    _check_live_rows(found)
    _check_series_of_workers_end(container, reader, report)


def _check_series_of_workers_end(
    container: CoreServices, reader: Asker, report: WorkerReport
) -> None:
    killed = replace(report, id=uuid7(), hostname="celery@killed")
    with container.database.autocommit() as connection:
        workers.stopped(connection, report.id)
        workers.report(connection, killed)
        connection.execute(
            text("UPDATE workers SET seen_at = now() - interval '5 minutes' WHERE id = :id"),
            {"id": killed.id},
        )
    up = samples(reader)["celeriac_worker_up"]
    assert not {host for key in up for _, host in key} & {"celery@a", "celery@killed"}, (
        "series of workers end that have stopped, or were killed"
    )


def _check_live_rows(found: Samples) -> None:
    live = {("queued", "sent"): 1, ("pending", "delayed"): 1, ("running", ""): 0}
    for (status, reason), expected in live.items():
        assert value(found, "celeriac_executions_live", status=status, waiting_for=reason) \
            == expected  # fmt: skip
    assert sum(found["celeriac_executions_live"].values()) == 2
    groups = found["celeriac_failure_groups"]
    assert {next(iter(key))[1] for key, number in groups.items() if number} == {"new"}
    assert value(found, "celeriac_failure_groups", state="new") == 1
    for directory in ("home", "logs"):
        size = value(found, "celeriac_disk_size_bytes", directory=directory)
        assert 0 < value(found, "celeriac_disk_free_bytes", directory=directory) < size


def test_metrics_say_when_the_keeper_worked_last(
    ada: Asker, reader: Asker, container: CoreServices
) -> None:
    assert value(samples(reader), "celeriac_keeper_last_round_timestamp_seconds") == 0
    job = JobReport(
        name="retention", host="a", interval_seconds=1, seconds=1, next_in=1, done=0, failures=2,
        error="It failed.",
    )  # fmt: skip
    with container.database.autocommit() as connection:
        maintenance.record(connection, job)
    found = samples(reader)
    assert value(found, "celeriac_keeper_job_failures", job="retention") == 2
    assert value(found, "celeriac_keeper_last_round_timestamp_seconds") > 1e9


def test_histograms_are_whole_and_grow_with_their_limits(
    ada: Asker, reader: Asker, container: CoreServices
) -> None:
    _append(container, 50)
    text = reader.get("/metrics").text
    limits = re.findall(r'run_seconds_bucket\{le="([^"]+)",queue="q"\} (\S+)', text)
    assert len(limits) == 29
    assert limits[-1] == ("+Inf", "50.0")
    counts = [float(count) for _, count in limits]
    assert counts == sorted(counts)
    assert [float(limit) for limit, _ in limits] == sorted(float(limit) for limit, _ in limits)


def test_many_tasks_have_a_bounded_number_of_series(
    ada: Asker, reader: Asker, container: CoreServices
) -> None:
    _append(container, MOST_TASKS + 37, tasks=MOST_TASKS + 37)
    totals = samples(reader)["celeriac_executions_total"]
    assert len(totals) == 3 * (MOST_TASKS + 1)
    assert sum(totals.values()) == MOST_TASKS + 37
    other = {"workspace": "other", "task": "other", "queue": "other", "status": "completed"}
    assert totals[frozenset(other.items())] == 37


def _append(container: CoreServices, number: int, *, tasks: int = 1) -> None:
    with container.database.autocommit() as connection:
        connection.execute(
            text("""
INSERT INTO execution_ends (workspace_id, task_id, wait_ms, run_ms, input_tokens, output_tokens,
                            model_calls, retries, crashes, cost, outcome, queue)
SELECT gen_random_uuid(), lpad(to_hex(n % :tasks), 32, '0')::uuid, n, n * n, 0, 0, 0, 0, 0, 0,
       'completed', 'q'
FROM generate_series(1, :number) AS n"""),
            {"number": number, "tasks": tasks},
        )
    Rollups(container.database).fold(1_000)


def test_only_the_token_and_administrators_may_read_them(
    app_client: TestClient, ada: Asker, admin: Asker, reader: Asker
) -> None:
    assert_problem(app_client.get("/metrics"), 401, "unauthenticated")
    assert_problem(ada.get("/metrics"), 403, "forbidden")
    assert_problem(Asker(app_client, TOKEN + "x").get("/metrics"), 401, "unauthenticated")
    assert admin.get("/metrics").status_code == 200
    assert reader.get("/metrics").status_code == 200
    lower = {"authorization": f"bearer {TOKEN}"}
    assert app_client.get("/metrics", headers=lower).status_code == 200
    assert_problem(reader.get("/api/v1/tasks"), 401, "unauthenticated")
    app_client.app.state.services.metrics_token = None  # type: ignore[attr-defined]
    assert_problem(reader.get("/metrics"), 401, "unauthenticated")
    assert_problem(app_client.get("/metrics", headers={"authorization": "Bearer "}), 401,
                   "unauthenticated")  # fmt: skip


@pytest.mark.parametrize("source", ["database", "redis"])
@pytest.mark.parametrize("how", ["away", "frozen"])
def test_what_a_source_does_not_say_is_left_out_within_a_bound(
    reader: Asker, monkeypatch: pytest.MonkeyPatch, source: str, how: str
) -> None:
    thawed = threading.Event()

    def ask() -> None:
        if how == "frozen":
            thawed.wait(60)
        raise UnavailableError("It doesn't answer.")

    monkeypatch.setattr(metrics, "SOURCE_SECONDS", 0.5)
    services = reader.client.app.state.services  # type: ignore[attr-defined]
    monkeypatch.setattr(getattr(services.metrics, f"_{source}"), "_ask", ask)
    other = "redis" if source == "database" else "database"
    named = "celeriac_queue_backlog" if source == "database" else "celeriac_redis_memory_bytes"
    try:
        for _ in range(2):
            found = samples(reader)
            assert value(found, f"celeriac_{source}_up") == 0
            assert value(found, f"celeriac_{other}_up") == 1
            assert named not in found
    finally:
        thawed.set()
    monkeypatch.undo()
    wait_until(lambda: value(samples(reader), f"celeriac_{source}_up") == 1, "it is asked again")
