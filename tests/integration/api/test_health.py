"""Health over HTTP."""

from dataclasses import replace

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import text

from celeriac.db import workers
from celeriac.domain.errors import DatabaseUnavailableError
from celeriac.domain.operations import WorkerReport
from celeriac.kit.ids import uuid7
from celeriac.wiring.core import CoreServices


@pytest.mark.requirement("B9")
def test_the_live_workers_are_counted(app_client: TestClient, container: CoreServices) -> None:
    response = app_client.get("/health/celery")
    assert response.status_code == 503
    assert response.json() == {
        "status": "unavailable", "workers": 0, "consuming": 0, "slots": 0, "active": 0,
        "processes": [],
    }  # fmt: skip
    reports = [
        WorkerReport(
            id=uuid7(), hostname=f"celery@{host}", pid=pid, pool="prefork", slots=4, running=3,
            cpu_percent=1.5, memory_bytes=10**8, version="1",
        )
        for host, pid in (("a", 1), ("a", 2), ("b", 1))
    ]  # fmt: skip
    with container.database.transaction() as connection:
        for report in reports:
            workers.report(connection, report)
    body = app_client.get("/health/celery").json()
    assert (body["status"], body["workers"], body["slots"], body["active"]) == ("ok", 2, 12, 9)
    assert {process["hostname"] for process in body["processes"]} == {"celery@a", "celery@b"}
    with container.database.transaction() as connection:
        for report in reports:
            workers.report(connection, replace(report, consuming=report.hostname == "celery@b"))
    body = app_client.get("/health/celery").json()
    assert (body["status"], body["workers"], body["consuming"]) == ("ok", 2, 1)
    with container.database.transaction() as connection:
        for report in reports:
            workers.report(connection, replace(report, consuming=False))
    answer = app_client.get("/health/celery")
    assert (answer.status_code, answer.json()["workers"], answer.json()["slots"]) == (503, 2, 12)
    with container.database.transaction() as connection:
        for report in reports:
            workers.stopped(connection, report.id)
    assert app_client.get("/health/celery").status_code == 503


@pytest.mark.requirement("B9")
def test_all_is_well(app_client: TestClient) -> None:
    assert app_client.get("/health/live").json()["status"] == "ok"
    ready = app_client.get("/health/ready")
    assert ready.status_code == 200
    assert ready.json() == {
        "status": "ok", "checks": {"database": "ok", "schema": "ok", "redis": "ok"},
    }  # fmt: skip


def test_a_full_disk_that_a_statement_met_makes_it_not_ready(
    app_client: TestClient, container: CoreServices
) -> None:
    full = text("DO $$ BEGIN RAISE 'No space left on device' USING ERRCODE = '53100'; END $$")
    with (
        pytest.raises(DatabaseUnavailableError, match="No space left"),
        container.database.autocommit() as connection,
    ):
        connection.execute(full)
    ready = app_client.get("/health/ready")
    assert ready.status_code == 503
    assert ready.json()["status"] == "unavailable"
    assert ready.json()["checks"]["database"] == "refuses writes: its disk is full"
    assert container.database.disk_full_within(60)
    assert not container.database.disk_full_within(0), "it must not count for ever"
