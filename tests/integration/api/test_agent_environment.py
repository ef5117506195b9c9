"""The variables that agents may name: an administrator's list, and never one of Celeriac's own."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from celeriac.settings import Settings
from celeriac.wiring.core import CoreServices, build
from tests.support.api import Asker, assert_problem


@pytest.fixture
def container(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[CoreServices]:
    """The shared parts, where agents may see the shop's variables."""
    monkeypatch.setenv("CELERIAC_AGENT_ENVIRONMENT", "SHOP_*, SORT_ORDER")
    servers = '{"crm": {"url": "https://crm/mcp", "headers": {"Authorization": "CRM_AUTH"}}}'
    loaded = Settings.load(mcp_servers=servers)
    shared = {"agent_environment": loaded.agent_environment, "mcp_servers": loaded.mcp_servers}
    parts = build(settings.model_copy(update=shared), service="test", connections=10)
    yield parts
    parts.close()


def spec(runner: str, *names: str) -> dict[str, Any]:
    kinds = {
        "command": {"command": "sh"},
        "python": {"function": "shop.agents:score"},
        "claude": {},
    }
    return {"runner": runner, **kinds[runner], "environment": list(names)}


@pytest.mark.parametrize("runner", ["command", "python", "claude"])
@pytest.mark.parametrize(
    "name",
    [
        "OPENAI_API_KEY",
        "openai_api_key",
        "ANTHROPIC_API_KEY",
        "CRM_AUTH",
        "DATABASE_URL",
        "CELERIAC_APPROVALS_WEBHOOK_SECRET",
        "AWS_SECRET_ACCESS_KEY",
        "PGPASSWORD",
        "shop_token",
    ],
)
def test_an_agent_that_names_what_it_may_not_see_is_not_made(
    person: Callable[..., Asker], runner: str, name: str
) -> None:
    ada = person("ada")
    body = {"name": "coder", "spec": spec(runner, "SHOP_URL", name)}

    problem = assert_problem(ada.post("/api/v1/agents", json=body), 422, "invalid_input")

    assert problem["field"] == "spec.environment"
    assert name in problem["detail"]
    assert "SHOP_URL" not in problem["detail"]
    assert ada.get("/api/v1/agents").json()["items"] == []


def test_an_agent_may_name_what_an_administrator_lists(person: Callable[..., Asker]) -> None:
    ada = person("ada")
    body = {"name": "coder", "spec": spec("command", "SHOP_URL", "SORT_ORDER")}
    assert ada.post("/api/v1/agents", json=body).status_code == 201

    changed = ada.patch("/api/v1/agents/coder", json={"spec": spec("command", "OPENAI_API_KEY")})

    assert_problem(changed, 422, "invalid_input")
    assert ada.get("/api/v1/agents/coder").json()["version"] == 1
