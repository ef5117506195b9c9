"""What wraps every request: ids, size limits, unforeseen errors, servers that are away."""

from collections.abc import Iterator

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import text

from celeriac.api.app import create_app
from celeriac.db.engine import Database
from celeriac.wiring.core import CoreServices, build
from tests.support.api import EXECUTE, Asker, assert_problem
from tests.support.outages import holding, read_only

TASKS = "/api/v1/tasks"


def test_a_sane_request_id_is_kept_and_stored(ada: Asker) -> None:
    headers = {"X-Request-ID": "shop-42/a"}
    response = ada.post(EXECUTE, json={"variables": {"text": "a"}}, headers=headers)
    assert response.headers["x-request-id"] == "shop-42/a"
    execution = ada.get(response.json()["_links"]["self"]).json()
    assert execution["request_id"] == "shop-42/a"


@pytest.mark.parametrize("given", ["", "a b", "x" * 129, "a\tb", "é"])
def test_another_request_id_is_replaced(app_client: TestClient, given: str) -> None:
    response = app_client.get("/health/live", headers={b"X-Request-ID": given.encode()})
    assert response.headers["x-request-id"] != given
    assert len(response.headers["x-request-id"]) == 36


def test_bodies_over_the_limit_are_refused_by_their_header(
    ada: Asker, container: CoreServices
) -> None:
    size = container.settings.api.max_body_bytes + 1
    headers = {"Content-Type": "application/json"}
    response = ada.post(TASKS, content=b"x" * size, headers=headers)
    assert assert_problem(response, 413, "too_large")["details"]["limit"] == size - 1


def test_bodies_over_the_limit_are_refused_while_they_arrive(ada: Asker) -> None:
    sent = 0

    def pieces() -> Iterator[bytes]:
        nonlocal sent
        for _ in range(100):
            sent += 500_000
            yield b"x" * 500_000

    headers = {"Content-Type": "application/json"}
    response = ada.post(TASKS, content=pieces(), headers=headers)
    assert_problem(response, 413, "too_large")
    assert response.headers["connection"] == "close"


def test_an_unforeseen_error_tells_nothing_of_the_inside(container: CoreServices) -> None:
    app = create_app(container)

    @app.get("/fault")
    def fault() -> None:
        raise RuntimeError("the password is hunter2")

    with TestClient(app, raise_server_exceptions=False) as client:
        response = client.get("/fault")
    assert_problem(response, 500, "internal_error")
    assert "hunter2" not in response.text


def test_without_the_database_it_says_so(container: CoreServices) -> None:
    settings = container.settings.model_copy(
        update={"database_url": "postgresql://u:secret@127.0.0.1:1/d"}
    )
    away = build(settings, service="test", connections=2)
    with TestClient(create_app(away), raise_server_exceptions=False) as client:
        token = "cel_000000000000_" + "0" * 48
        response = client.get(TASKS, headers={"Authorization": f"Bearer {token}"})
        problem = assert_problem(response, 503, "database_unavailable")
        assert "secret" not in problem["detail"]
        assert int(response.headers["retry-after"]) > 0
        ready = client.get("/health/ready")
        assert (ready.status_code, ready.json()["status"]) == (503, "unavailable")
        assert client.get("/health/live").status_code == 200
        assert_problem(client.get("/health/celery"), 503, "database_unavailable")
    away.close()


def test_a_read_only_database_is_said_and_passes(
    container: CoreServices, app_client: TestClient, ada: Asker
) -> None:
    """As after a failover, while the API still reaches the server that was the primary."""
    body = {"variables": {"text": "a"}}
    with read_only(container.database.engine.url):
        assert_problem(ada.get(TASKS), 503, "database_unavailable")  # its connection was cut
        assert ada.get(TASKS).status_code == 200, "what only reads works on"
        response = ada.post(EXECUTE, json=body)
        assert_problem(response, 503, "database_unavailable")
        assert int(response.headers["retry-after"]) > 0
        ready = app_client.get("/health/ready")
        assert ready.status_code == 503
        assert ready.json()["checks"]["database"] == "is read-only"
    assert_problem(ada.get(TASKS), 503, "database_unavailable")
    assert ada.post(EXECUTE, json=body).status_code == 202


def test_a_locked_row_is_no_database_that_is_away(container: CoreServices, ada: Asker) -> None:
    settings = container.settings
    short = Database(settings.require_database(), connections=2, lock_seconds=0.1)
    app = create_app(container)

    @app.get("/fault")
    def fault() -> None:
        with short.autocommit() as connection:
            connection.execute(text("UPDATE users SET name = name"))

    lock = "SELECT id FROM users FOR UPDATE"
    with (
        holding(container.database.engine.url, lock),
        TestClient(app, raise_server_exceptions=False) as client,
    ):
        response = client.get("/fault")
    problem = assert_problem(response, 503, "database_busy")
    assert "lock timeout" in problem["detail"]
    assert int(response.headers["retry-after"]) > 0
    short.close()


@pytest.mark.requirement("B9")
def test_without_redis_executions_are_stored_and_sent_later(
    container: CoreServices, ada: Asker
) -> None:
    settings = container.settings.model_copy(update={"redis_url": "redis://127.0.0.1:1/0"})
    away = build(settings, service="test", connections=5)
    with TestClient(create_app(away), raise_server_exceptions=False) as client:
        asker = Asker(client, ada.token)
        ready = asker.get("/health/ready")
        assert ready.status_code == 200, "requests are served"
        assert ready.json()["status"] == "degraded"
        assert ready.json()["checks"]["redis"] == "doesn't answer"
        response = asker.post(EXECUTE, json={"variables": {"text": "a"}})
        assert (response.status_code, response.json()["status"]) == (202, "pending")
        assert response.json()["_links"]["celery_task"] is None
        response = asker.post(
            "/api/v1/celery-tasks", json={"name": "celeriac.tasks.monitoring.ping"}
        )
        assert_problem(response, 503, "broker_unavailable")
    away.close()


@pytest.mark.requirement("B9")
def test_a_database_without_our_tables_is_not_ready(
    container: CoreServices, postgres_server: object
) -> None:
    name = postgres_server.fresh_database()  # type: ignore[attr-defined]
    url = postgres_server.url(name)  # type: ignore[attr-defined]
    empty = build(
        container.settings.model_copy(update={"database_url": url}), service="test", connections=2
    )
    with TestClient(create_app(empty)) as client:
        ready = client.get("/health/ready")
    assert ready.status_code == 503
    assert "celeriac db upgrade" in ready.json()["checks"]["schema"], "the cure is named"
    empty.close()
