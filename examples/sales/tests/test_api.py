"""The HTTP API, with a client of Celeriac whose server is a function."""

import json
from collections.abc import Iterator
from typing import Any
from uuid import UUID

import httpx
import pytest
from fastapi.testclient import TestClient

from celeriac import Client
from sales.api import app, connected

pytestmark = pytest.mark.usefixtures("database")

ID = "0199f3a2-1c5e-7d30-9a64-0b8f6b1d2c11"
LEAD = {"email": "ines@hafenlager.example", "company": "Hafenlager Nord", "employees": 240}


class Server:
    """Answers as the API of Celeriac does, and keeps what it was asked."""

    def __init__(self) -> None:
        self.asked: list[httpx.Request] = []
        self.up = True

    def __call__(self, request: httpx.Request) -> httpx.Response:
        """Answer a request."""
        if not self.up:
            raise httpx.ConnectError("refused")
        self.asked.append(request)
        if "workflows" in request.url.path:
            run = {"run_id": ID, "workflow_id": ID, "status": "running", "_links": {}}
            return httpx.Response(202, json=run)
        accepted: dict[str, Any] = {
            "task_id": ID,
            "execution_id": ID,
            "status": "queued",
            "execution_mode": "async",
            "celery_task_id": None,
            "session_id": None,
            "_links": {},
        }
        return httpx.Response(202, json=accepted)


@pytest.fixture
def server() -> Server:
    """Return the server."""
    return Server()


@pytest.fixture
def api(server: Server) -> Iterator[TestClient]:
    """Return a client of our API."""
    transport = httpx.MockTransport(server)
    with Client("http://celeriac.example", "cel_key", transport=transport) as client:
        app.dependency_overrides[connected] = lambda: client
        yield TestClient(app)
        app.dependency_overrides.clear()


def test_a_lead_is_stored_and_queued(api: TestClient, server: Server) -> None:
    """The answer names the work."""
    lead = api.post("/leads", json=LEAD).json()
    answer = api.post(f"/leads/{lead['id']}/qualify", headers={"Idempotency-Key": "k1"})
    assert (answer.status_code, answer.json()) == (202, {"task_id": ID, "status": "queued"})
    [asked] = server.asked
    assert asked.url.path == "/api/v1/tasks/qualify_lead/execute"
    assert asked.headers["Idempotency-Key"] == "k1"
    assert json.loads(asked.content)["variables"] == {"lead_id": lead["id"]}


def test_a_batch_starts_a_run(api: TestClient, server: Server) -> None:
    """The minimal score has a default."""
    answer = api.post("/leads/batch", json={"csv": "email,company\n"})
    assert answer.status_code == 202
    assert UUID(answer.json()["task_id"]) == UUID(ID)
    assert json.loads(server.asked[0].content)["input"]["min_score"] == 60


def test_a_lead_that_is_not_there_queues_nothing(api: TestClient, server: Server) -> None:
    """It is 404 here, and Celeriac is not asked."""
    answer = api.post("/leads/7/enrich")
    assert (answer.status_code, answer.json()) == (404, {"detail": "There is no lead 7."})
    assert server.asked == []


def test_a_lead_is_there_while_celeriac_is_not(api: TestClient, server: Server) -> None:
    """The answer says that it may be tried again."""
    server.up = False
    lead = api.post("/leads", json=LEAD).json()
    answer = api.post(f"/leads/{lead['id']}/enrich")
    assert (answer.status_code, answer.json()["code"]) == (503, "unreachable")
    assert [each["company"] for each in api.get("/leads").json()] == ["Hafenlager Nord"]
