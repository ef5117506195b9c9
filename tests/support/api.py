"""What tests of the HTTP API share."""

from dataclasses import dataclass
from typing import Any

import httpx2
import pytest
from fastapi.testclient import TestClient

from celeriac.client import Client
from celeriac.services.accounts import Accounts
from celeriac.wiring.core import CoreServices, secret_key

AGENT: dict[str, Any] = {
    "name": "writer",
    "spec": {"runner": "llm", "model": "local/smollm2", "instructions": "Be brief."},
}
TASK: dict[str, Any] = {
    "name": "summarise",
    "agent": "writer",
    "spec": {
        "prompt": "Summarise: {{ text }}",
        "variables_schema": {
            "type": "object",
            "properties": {"text": {"type": "string"}},
            "required": ["text"],
            "additionalProperties": False,
        },
    },
}
EXECUTE = "/api/v1/tasks/summarise/execute"


def build_accounts(container: CoreServices) -> Accounts:
    """Return the accounts of an installation."""
    return Accounts(container.database, secret_key(container.settings))


@dataclass(frozen=True)
class Asker:
    """Somebody with an API key."""

    client: TestClient
    token: str
    workspace: str | None = None
    """One that the requests name."""

    def request(
        self, method: str, path: str, *, headers: dict[str, str] | None = None, **more: Any
    ) -> httpx2.Response:
        """Send a request with the key."""
        sent = {"Authorization": f"Bearer {self.token}", **(headers or {})}
        if self.workspace is not None:
            sent.setdefault("Celeriac-Workspace", self.workspace)
        return self.client.request(method, path, headers=sent, **more)

    def get(self, path: str, **more: Any) -> httpx2.Response:
        """Send a GET."""
        return self.request("GET", path, **more)

    def post(self, path: str, **more: Any) -> httpx2.Response:
        """Send a POST."""
        return self.request("POST", path, **more)

    def patch(self, path: str, **more: Any) -> httpx2.Response:
        """Send a PATCH."""
        return self.request("PATCH", path, **more)

    def delete(self, path: str, **more: Any) -> httpx2.Response:
        """Send a DELETE."""
        return self.request("DELETE", path, **more)


def assert_problem(response: httpx2.Response, status: int, code: str) -> dict[str, Any]:
    """Return the problem that `response` must be."""
    assert response.headers["content-type"] == "application/problem+json", response.text
    body: dict[str, Any] = response.json()
    assert (response.status_code, body["code"]) == (status, code), body
    assert body["status"] == status
    assert body["type"] == f"urn:celeriac:problem:{code}"
    assert body["detail"]
    assert body["title"]
    assert body["request_id"] == response.headers["x-request-id"]
    return body


def sign_in(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let commands ask the server of `client`, with its key."""
    monkeypatch.setenv("CELERIAC_API_URL", client.base_url)
    key = client._http.headers["authorization"].removeprefix("Bearer ")
    monkeypatch.setenv("CELERIAC_API_KEY", key)
