"""The situation report over HTTP, with real servers."""

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import text

from celeriac.adapters import queue_search
from celeriac.adapters.celery_queue import CeleryTaskQueue, create_app
from celeriac.api.app import create_app as create_api
from celeriac.cli.main import main
from celeriac.db import rollups, sitrep, workers
from celeriac.domain.accounts import Role
from celeriac.domain.errors import UnavailableError
from celeriac.domain.executions.calls import EXECUTE_AGENT
from celeriac.domain.operations import WorkerReport
from celeriac.domain.plain_tasks import PlainEnd
from celeriac.kit.ids import uuid7
from celeriac.services.operations import metrics, sources
from celeriac.services.operations.plain_tasks import PlainTaskCounts
from celeriac.wiring.core import CoreServices, celery_options
from tests.support.api import EXECUTE, Asker

SITREP = "/api/v1/scheduler/sitrep"


def report_of(asker: Asker, **params: Any) -> dict[str, Any]:
    answer = asker.get(SITREP, params=params)
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    return body


def codes(body: dict[str, Any]) -> list[str]:
    return [each["code"] for each in body["problems"]]


def worker_of(container: CoreServices, *queues: str) -> WorkerReport:
    report = WorkerReport(
        id=uuid7(), hostname="celery@a", pid=1, pool="threads", slots=4, running=0,
        cpu_percent=1.5, memory_bytes=10**8, version="1", queues=queues, consuming=True,
    )  # fmt: skip
    with container.database.transaction() as connection:
        workers.report(connection, report)
    return report


def age_all(container: CoreServices, seconds: float) -> None:
    with container.database.transaction() as connection:
        connection.execute(
            text("UPDATE executions SET available_at = now() - make_interval(secs => :s)"),
            {"s": seconds},
        )


@pytest.mark.requirement("D1", "D6", "D9")
def test_nothing_there_is_well_and_says_so(ada: Asker) -> None:
    body = report_of(ada)
    assert (body["level"], body["problems"]) == ("well", [])
    figures = ("total_tasks", "active_tasks", "completed_tasks", "failed_tasks", "pending_tasks")
    assert [body[name] for name in figures] == [0, 0, 0, 0, 0]
    assert body["success_rate"] is None
    for name in ("recent_tasks", "workers", "queues", "periodic_tasks", "window", "broker"):
        assert body[name]["ok"], body[name]
        assert body[name]["error"] is None
    assert body["workers"]["data"] == []
    assert ada.client.get(SITREP).status_code == 401


@pytest.mark.requirement("D1", "D2", "D3")
def test_what_waits_for_a_worker_that_nobody_starts(ada: Asker, container: CoreServices) -> None:
    for _ in range(3):
        assert ada.post(
            "/api/v1/tasks/summarise/execute", json={"variables": {"text": "a"}}
        ).is_success
    age_all(container, 400)
    if True:
        body = report_of(ada)
        assert codes(body) == ["no_worker_for_queue"]
        problem = body["problems"][0]
        assert "3 executions wait, the oldest for 6 minutes" in problem["text"]
        assert problem["cure"] == "Start one: `celeriac worker -Q task_execution`."
        assert problem["link"] == "docs/runbook.md#no-worker-for-queue"
        assert body["headline"] == problem["text"]
        assert body["level"] == "critical"
        assert (body["pending_tasks"], body["total_tasks"]) == (3, 3)
    recent = body["recent_tasks"]["data"]
    assert {each["name"] for each in recent["items"]} == {"Summarise"}
    assert {each["status"] for each in recent["items"]} == {"pending"}
    worker_of(container, "task_execution")
    later = report_of(ada, limit=2)
    assert later["recent_tasks"]["data"]["next_cursor"] == recent["items"][1]["task_id"]


@pytest.mark.requirement("D1", "D2")
def test_an_administrator_sees_all_workspaces_and_others_only_their_own(
    ada: Asker, admin: Asker, container: CoreServices
) -> None:
    for _ in range(2):
        made = ada.post("/api/v1/tasks/summarise/execute", json={"variables": {"text": "a"}})
        assert made.is_success
    age_all(container, 60)
    assert ada.get(SITREP, params={"scope": "instance"}).status_code == 403
    own = report_of(admin)
    assert (own["pending_tasks"], own["level"], own["queues"]["data"]) == (0, "well", [])
    whole = report_of(admin, scope="instance")
    assert (whole["pending_tasks"], whole["total_tasks"]) == (2, 2)
    assert codes(whole) == ["no_worker_for_queue"]
    assert [each["reason"] for each in whole["waiting"]["data"]] in (["due"], ["sent"])
    assert whole["recent_tasks"]["data"]["items"] == [], "contents of other workspaces"
    for name in ("totals", "window", "attention", "periodic_tasks"):
        assert whole[name]["ok"], whole[name]


@pytest.mark.requirement("D3", "D4", "D6")
def test_recent_tasks_of_both_kinds_have_plain_names_and_pages(ada: Asker) -> None:
    sent = [
        ada.post("/api/v1/celery-tasks", json={"name": "celeriac.tasks.monitoring.health_check"}),
        ada.post("/api/v1/tasks/summarise/execute", json={"variables": {"text": "a"}}),
        ada.post("/api/v1/celery-tasks", json={"name": "celeriac.tasks.monitoring.ping"}),
    ]
    assert all(each.is_success for each in sent)
    pages, cursor = [], None
    for _ in sent:
        params = {"limit": 1} | ({"cursor": cursor} if cursor else {})
        page = report_of(ada, **params)["recent_tasks"]["data"]
        pages += page["items"]
        cursor = page["next_cursor"]
    assert cursor is None
    assert [each["name"] for each in pages] == ["Ping", "Summarise", "Health Check"]
    assert [each["type"] for each in pages] == ["celery", "execution", "celery"]
    assert {each["status"] for each in pages} == {"pending"}
    names = {"task_id", "name", "status", "description", "started_at", "completed_at"}
    assert names | {"duration_seconds", "error_message"} <= set(pages[0])
    only = report_of(ada, type="celery")["recent_tasks"]["data"]["items"]
    assert [each["name"] for each in only] == ["Ping", "Health Check"]
    assert report_of(ada, status="failed")["recent_tasks"]["data"]["items"] == []
    assert ada.get(SITREP, params={"status": "lost"}).status_code == 422


@pytest.mark.requirement("D3", "D6")
def test_errors_are_cut_and_hold_no_secrets(ada: Asker, container: CoreServices) -> None:
    made = ada.post("/api/v1/tasks/summarise/execute", json={"variables": {"text": "a"}}).json()
    error = "login with password=hunter2 refused " + "x" * 500
    with container.database.transaction() as connection:
        connection.execute(
            text(
                "UPDATE executions SET status = 'failed', started_at = now(), completed_at = now(),"
                " error_code = 'agent_failed', error_message = :error, queued_at = NULL"
            ),
            {"error": error},
        )
    [task] = report_of(ada, status="failed")["recent_tasks"]["data"]["items"]
    assert task["task_id"] == made["execution_id"]
    assert task["status"] == "failed"
    assert len(task["error_message"]) <= 200
    assert "hunter2" not in task["error_message"]


_END = text("""
INSERT INTO execution_ends (workspace_id, task_id, execution_id, outcome, fingerprint, error_code,
                            error_message, input_tokens, output_tokens, model_calls, retries,
                            crashes, cost, queue)
SELECT workspace_id, task_id, id, :outcome,
       CASE WHEN :outcome = 'failed' THEN '1:a' END, 'agent_failed', 'x', 0, 0, 0, 0, 0, 0, 'a'
FROM executions WHERE id = :id
""")


@pytest.mark.requirement("D1")
def test_a_task_whose_only_execution_failed_is_not_well(
    ada: Asker, admin: Asker, container: CoreServices, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "FRESH_SECONDS", 0.0)

    def end(outcome: str) -> None:
        made = ada.post("/api/v1/tasks/summarise/execute", json={"variables": {"text": "a"}})
        with container.database.transaction() as connection:
            connection.execute(_END, {"id": made.json()["execution_id"], "outcome": outcome})
            rollups.fold(connection, limit=10)

    def failing(asker: Asker, **params: Any) -> list[str]:
        found = report_of(asker, **params)["problems"]
        return [each["text"] for each in found if each["code"] == "tasks_failing"]

    end("failed")
    body = report_of(ada)
    assert codes(body) == ["tasks_failing"]
    assert body["level"] == "warning"
    assert body["headline"].startswith("No execution of the task summarise that ended in the last")
    assert body["headline"].endswith("has completed: 1 failure.")
    (whole,) = failing(admin, scope="instance")
    assert "/summarise that ended" in whole
    assert failing(admin) == [], "of another workspace"
    (group,) = ada.get("/api/v1/failure-groups").json()["items"]
    for version, state, expected in ((1, "muted", 0), (2, "resolved", 1), (3, "known", 0)):
        change = {"state": state, "version": version}
        assert ada.patch(f"/api/v1/failure-groups/{group['id']}", json=change).is_success
        assert len(failing(ada)) == expected, state
    change = {"state": "resolved", "version": 4}
    assert ada.patch(f"/api/v1/failure-groups/{group['id']}", json=change).is_success
    assert failing(ada) != []
    end("completed")
    assert failing(ada) == []


@pytest.mark.requirement("D1")
def test_what_waits_for_people_is_a_problem_with_its_cure(
    ada: Asker, admin: Asker, container: CoreServices
) -> None:
    paused = admin.post(
        "/api/v1/pauses", json={"scope": "queue", "queue": "mail", "reason": "Supplier away."}
    )
    assert paused.is_success
    schedule = {"name": "nightly", "task": "summarise", "every_seconds": 60}
    assert ada.post("/api/v1/schedules", json=schedule | {"input": {"text": "a"}}).is_success
    with container.database.transaction() as connection:
        connection.execute(text("UPDATE schedules SET due_at = now() - interval '2 minutes'"))
    body = report_of(ada)
    assert codes(body) == ["schedule_late", "paused"]
    assert body["level"] == "warning"
    assert body["problems"][0]["text"] == "The schedule nightly should have fired 2 minutes ago."
    [periodic] = body["periodic_tasks"]["data"]
    assert (periodic["name"], periodic["last_status"]) == ("nightly", None)
    assert periodic["late_seconds"] >= 120


@pytest.mark.requirement("D5")
def test_a_stored_result_that_nobody_can_read_leaves_the_others(
    ada: Asker, container: CoreServices
) -> None:
    name = {"name": "celeriac.tasks.monitoring.ping"}
    ids = [ada.post("/api/v1/celery-tasks", json=name).json()["task_id"] for _ in range(3)]
    backend = create_app(celery_options(container.settings, publisher=True)).backend
    backend.store_result(ids[0], "pong", "SUCCESS")
    backend.set(backend.get_key_for_task(ids[1]), b"\xff{no json")
    found = report_of(ada)["recent_tasks"]["data"]["items"]
    states = {each["task_id"]: each["status"] for each in found}
    assert (states[ids[0]], states[ids[1]]) == ("completed", None)
    assert states[ids[2]] == "pending"


@pytest.mark.requirement("D7")
def test_stored_results_and_events_that_nobody_reads_change_nothing(
    ada: Asker, admin: Asker, container: CoreServices, monkeypatch: pytest.MonkeyPatch
) -> None:
    """100,000 results of Celery tasks, and as many events for a consumer that is gone."""
    monkeypatch.setattr(sources, "FRESH_SECONDS", 0.0)
    monkeypatch.setattr(metrics, "_KEPT_SECONDS", 0.0)
    ping = {"name": "celeriac.tasks.monitoring.ping"}
    assert ada.post("/api/v1/celery-tasks", json=ping).is_success
    app = create_app(celery_options(container.settings, publisher=True))
    results = app.backend.client
    with app.connection_for_write() as broker:
        events = broker.default_channel.client

        def asked() -> tuple[Counter[str], dict[str, Any], Any]:
            before = Counter(commands(results))
            figures = report_of(ada)
            messages = report_of(admin, scope="instance")["broker"]["data"]
            assert admin.get("/metrics").is_success
            return Counter(commands(results)) - before, figures, messages

        asked()  # connects
        few, figures, messages = asked()
        for part in range(20):
            prefix = app.backend.get_key_for_task(f"a{part}-").decode()
            assert results.eval(_MANY_RESULTS, 0, prefix) == 5_000
            assert events.eval(_MANY_EVENTS, 1, "celeryev.gone") == 5_000
        many, later, still = asked()
    assert not {"keys", "scan", "lrange", "smembers", "randomkey", "dbsize"} & many.keys()
    assert many["mget"] == few["mget"]
    assert still == messages
    assert later["recent_tasks"]["data"] == figures["recent_tasks"]["data"]
    assert later["total_tasks"] == figures["total_tasks"]


def commands(client: Any) -> dict[str, int]:
    """Return how often the server was sent each command, but for what the test itself sends."""
    found = client.info("commandstats")
    return {
        name.removeprefix("cmdstat_"): each["calls"]
        for name, each in found.items()
        if name not in {"cmdstat_info", "cmdstat_eval"}
    }


_MANY_RESULTS = """
for n = 1, 5000 do
    redis.call('SET', ARGV[1] .. n, '{"status": "SUCCESS", "result": 1}', 'EX', 600)
end
return 5000
"""
_MANY_EVENTS = """
for n = 1, 5000 do redis.call('LPUSH', KEYS[1], '{"body": "e"}') end
return 5000
"""


@pytest.mark.requirement("D1")
def test_what_a_role_may_not_read_elsewhere_is_not_in_its_report(
    admin: Asker, person: Callable[..., Asker], container: CoreServices
) -> None:
    assert admin.post("/api/v1/workspaces", json={"name": "team"}).is_success
    team = {}
    for role in (Role.ADMIN, Role.VIEWER):
        asker = person(f"the-{role.value}")
        member = {"user": f"the-{role.value}", "role": role.value}
        assert admin.post("/api/v1/workspaces/team/members", json=member).is_success
        team[role] = replace(asker, workspace="team")
    made = team[Role.ADMIN].post(
        "/api/v1/webhooks", json={"url": "https://hooks.example/in", "events": ["budget.spent"]}
    )
    assert made.is_success, made.text
    with container.database.transaction() as connection:
        connection.execute(
            text("UPDATE webhook_endpoints SET failing_since = now() - interval '2 hours'")
        )
    found = {role: report_of(asker) for role, asker in team.items()}
    assert codes(found[Role.ADMIN]) == ["webhook_endpoint_failing"]
    assert codes(found[Role.VIEWER]) == []
    assert "hooks.example" not in json.dumps(found[Role.VIEWER])
    # how much all workspaces have sent is for administrators
    assert all(each["broker"]["ok"] for each in found.values())
    assert all(each["broker"]["data"] is None for each in found.values())
    assert report_of(admin)["broker"]["data"]["task_execution"] == 0


@pytest.mark.requirement("D9")
def test_without_a_checked_key_nothing_is_told_of_the_queues(
    admin: Asker, container: CoreServices
) -> None:
    assert report_of(admin)["broker"]["data"], "it is known"
    found = admin.client.app.state.services.sitrep.without_database()  # type: ignore[attr-defined]
    assert (found.broker.ok, found.broker.data, found.queues.data) == (True, None, None)
    assert [each.code for each in found.problems] == ["database_unavailable"]


def test_an_api_that_does_not_answer_is_critical_for_scripts() -> None:
    assert main(["sitrep", "--api-url", "http://127.0.0.1:1", "--api-key", "k"]) == 2


def test_a_bulk_job_that_nobody_works_on_is_named(ada: Asker, container: CoreServices) -> None:
    for _ in range(2):
        assert ada.post(EXECUTE, json={"variables": {"text": "a"}}).is_success
    wanted = {"action": "cancel", "filter": {"task": "summarise"}}
    for _ in range(2):
        preview = ada.post("/api/v1/bulk-jobs", json=wanted).json()
        assert ada.post(preview["_links"]["start"]).status_code == 202

    def stuck() -> int:
        with container.database.autocommit() as connection:
            return sitrep.stuck_bulk_jobs(connection, workspace_id=None, seconds=120.0)[0]

    def pass_time(where: str) -> None:
        with container.database.transaction() as connection:
            connection.execute(
                text(
                    "UPDATE bulk_jobs SET started_at = now() - interval '3 minutes',"
                    f" created_at = now() - interval '3 minutes' {where}"
                )
            )

    assert stuck() == 0, "they have just begun"
    pass_time("WHERE id = (SELECT id FROM bulk_jobs LIMIT 1)")
    assert stuck() == 0, "jobs of a workspace take turns"
    pass_time("")
    assert stuck() == 2
    (problem,) = report_of(ada)["problems"]
    assert problem["text"] == "2 bulk jobs have made no progress for 3 minutes."
    assert problem["link"] == "docs/runbook.md#bulk-job-stuck"


@pytest.mark.requirement("D1", "D2")
def test_plain_tasks_count_for_those_who_may_see_them(
    ada: Asker, admin: Asker, container: CoreServices
) -> None:
    """They are no workspace's: the instance counts them, and the workspace of Celery's calls."""
    worker = worker_of(container, "task_execution")
    counts = PlainTaskCounts()
    ends_of = (PlainEnd.COMPLETED, PlainEnd.COMPLETED, PlainEnd.FAILED, PlainEnd.CANCELLED)
    for number, end in enumerate(ends_of):
        counts.ended("shop.mail", end, f"{number}")
    counts.began("shop.tidy", "running", "mail")
    assert counts.store(container.database, lambda: worker.id, hostname=worker.hostname)
    with container.database.transaction() as connection:
        workers.report(connection, replace(worker, plain_running=2))

    for hidden in (report_of(ada), report_of(admin)):
        assert hidden["plain_tasks"] == {**hidden["plain_tasks"], "ok": True, "data": None}
        assert (hidden["total_tasks"], hidden["totals"]["data"]["failed"]) == (0, 0)
    whole = report_of(admin, scope="instance")
    ends = {"completed": 2, "failed": 1, "cancelled": 1}
    assert whole["plain_tasks"]["data"] == {"totals": ends, "window": ends, "running": 2}
    figures = ("total_tasks", "active_tasks", "completed_tasks", "failed_tasks", "success_rate")
    assert [whole[name] for name in figures] == [6, 2, 2, 1, 2 / 3]
    for part in ("totals", "window"):
        assert {name: whole[part]["data"][name] for name in ends} == ends
    assert whole["window"]["data"]["per_minute"] > 0

    chosen = container.settings.calls.model_copy(update={"user": "ada"})
    settings = container.settings.model_copy(update={"calls": chosen})
    with TestClient(create_api(replace(container, settings=settings))) as client:
        own = report_of(Asker(client, ada.token))
        assert (own["completed_tasks"], own["plain_waiting"]["data"]["count"]) == (2, 0)
        assert own["recent_tasks"]["data"]["items"] == [], "they are no workspace's"

    runs = report_of(admin, scope="instance", type="celery")["recent_tasks"]["data"]["items"]
    assert [(each["task_id"], each["name"], each["status"]) for each in runs] == [
        ("running", "Tidy", "in_progress"), ("3", "Mail", "cancelled"), ("2", "Mail", "failed"),
        ("1", "Mail", "completed"), ("0", "Mail", "completed"),
    ]  # fmt: skip
    assert (runs[0]["queue"], runs[0]["completed_at"]) == ("mail", None)
    failed = report_of(admin, scope="instance", status="failed")["recent_tasks"]["data"]["items"]
    assert [each["task_id"] for each in failed] == ["2"]
    for hidden in (report_of(ada), report_of(admin)):
        assert hidden["recent_tasks"]["data"]["items"] == []


@pytest.mark.requirement("D2")
def test_plain_tasks_that_wait_in_the_broker_are_pending(
    ada: Asker, admin: Asker, container: CoreServices, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "FRESH_SECONDS", 0.0)
    worker_of(container, "task_execution", "letters")
    assert ada.post(EXECUTE, json={"variables": {"text": "a"}}).is_success
    app = create_app(celery_options(container.settings, publisher=True))
    for name, queue, priority in (
        ("shop.mail", "letters", 0), ("shop.mail", "letters", 9), ("shop.tidy", "default", 3),
        (EXECUTE_AGENT, "default", 0), ("celery.chord_unlock", "default", 0),
    ):  # fmt: skip
        app.send_task(name, kwargs={"task": '"task": "no.name"'}, queue=queue, priority=priority)
    whole = report_of(admin, scope="instance")
    waiting = whole["plain_waiting"]
    assert (waiting["ok"], waiting["data"]["count"], waiting["data"]["capped"]) == (True, 3, False)
    assert waiting["data"]["tasks"] == [
        {"queue": "letters", "name": "shop.mail", "count": 2},
        {"queue": "default", "name": "shop.tidy", "count": 1},
    ]
    assert (whole["pending_tasks"], whole["total_tasks"], whole["capped"]) == (4, 4, False)
    assert report_of(ada)["plain_waiting"]["data"] is None
    assert report_of(ada)["pending_tasks"] == 1

    monkeypatch.setattr(queue_search, "_MOST_MESSAGES", 1)
    bounded = report_of(admin, scope="instance")
    assert (bounded["plain_waiting"]["data"]["count"], bounded["capped"]) == (1, True)

    rabbit = CeleryTaskQueue(
        create_app(
            replace(celery_options(container.settings, publisher=True), broker_url="memory://")
        )
    )
    with pytest.raises(UnavailableError, match="RabbitMQ does not show"):
        rabbit.waiting_tasks(["default"])
