"""The real application, asked through its ASGI interface, and people who ask."""

from collections.abc import Callable, Iterator

import pytest
from fastapi.testclient import TestClient

from celeriac.api.app import create_app
from celeriac.api.core.protocol import SERVER_OPTIONS
from celeriac.client import Client
from celeriac.domain.accounts import Role
from celeriac.wiring.core import CoreServices
from tests.support.api import AGENT, TASK, Asker, build_accounts
from tests.support.http_server import serving


@pytest.fixture
def app_client(container: CoreServices) -> Iterator[TestClient]:
    """The application, without a key."""
    with TestClient(create_app(container), raise_server_exceptions=False) as client:
        yield client


@pytest.fixture
def admin(app_client: TestClient) -> Asker:
    """The first administrator."""
    made = app_client.app.state.services.accounts.bootstrap_admin()  # type: ignore[attr-defined]
    return Asker(app_client, made.token)


@pytest.fixture
def person(admin: Asker) -> Callable[..., Asker]:
    """Makes users: `person("ada", Role.OPERATOR)`."""

    def make(name: str, role: Role = Role.OPERATOR) -> Asker:
        user = admin.post("/api/v1/users", json={"name": name, "role": role.value}).json()
        key = admin.post("/api/v1/api-keys", json={"name": "test", "user_id": user["id"]}).json()
        return Asker(admin.client, key["token"])

    return make


@pytest.fixture
def ada(person: Callable[..., Asker]) -> Asker:
    """An operator with an agent `writer` and a task `summarise`."""
    asker = person("ada")
    assert asker.post("/api/v1/agents", json=AGENT).status_code == 201
    assert asker.post("/api/v1/tasks", json=TASK).status_code == 201
    return asker


@pytest.fixture
def api_url(container: CoreServices) -> Iterator[str]:
    """The application behind a real socket."""
    with serving(create_app(container), **SERVER_OPTIONS) as url:
        yield url


@pytest.fixture
def client(api_url: str, container: CoreServices) -> Iterator[Client]:
    """The Python client of an administrator who has the same agent and task."""
    token = build_accounts(container).bootstrap_admin().token
    with Client(api_url, api_key=token) as client:
        client.agents.create(AGENT["name"], AGENT["spec"])
        client.tasks.create(TASK["name"], TASK["agent"], TASK["spec"])
        yield client
