"""Hooks are created, changed and deleted, over HTTP, by the client and by commands."""

from collections.abc import Callable
from typing import Any
from uuid import uuid4

import pytest

from celeriac.cli.main import main
from celeriac.client import Client, ClientError
from celeriac.domain.accounts import Role
from celeriac.wiring.core import CoreServices
from tests.support.api import AGENT, TASK, Asker, assert_problem, sign_in
from tests.support.hooks import (
    BODY,
    HOOKS,
    Hook,
)

pytestmark = pytest.mark.requirement("F18", "A3")

EXECUTIONS = "/api/v1/task-executions"
STRIPE_SECRET = "whsec_made-by-stripe-0123456789"


@pytest.fixture
def boss(person: Callable[..., Asker]) -> Asker:
    """An admin of their own workspace, with a task."""
    asker = person("boss", Role.ADMIN)
    assert asker.post("/api/v1/agents", json=AGENT).status_code == 201
    assert asker.post("/api/v1/tasks", json=TASK).status_code == 201
    return asker


BAD: list[tuple[dict[str, Any], str]] = [
    ({"task": None}, "task"),
    ({"workflow": "w"}, "task"),
    ({"verification": "slack"}, "verification"),
    ({"secret": "short"}, "secret"),
    ({"secret": "not base64, and long enough"}, "secret"),
    ({"secret": "ä" * 20}, "secret"),
    ({"per_minute": 0}, "per_minute"),
    ({"mapping": {}}, "mapping"),
    ({"mapping": {"text": "${{ body. }}"}}, "mapping.text"),
    ({"mapping": {"text": "${{ boddy.a }}"}}, "mapping.text"),
    ({"mapping": {"text": "${{ headers['X-Kind'] }}"}}, "mapping.text"),
    ({"mapping": {"text": 5}}, "mapping.text"),
    ({"mapping": {"text": "a", "other": 1}}, "mapping.other"),
    ({"mapping": {"text": "x" * 70_000}}, "mapping"),
    ({"when": "body.a +"}, "when"),
    ({"when": "'text'"}, "when"),
    ({"when": "steps.a.result"}, "when"),
    ({"when": "${{ body.a }}"}, "when"),
    ({"description": "x" * 2_001}, "description"),
]


def test_bad_input_is_refused_before_anything_is_stored(boss: Asker) -> None:
    for change, field in BAD:
        body = {"task": "summarise", "mapping": {"text": "a"}} | change
        response = boss.post(HOOKS, json={k: v for k, v in body.items() if v is not None})
        problem = response.json()
        assert (response.status_code, problem["field"]) == (422, field), problem
    assert boss.get(HOOKS).json()["items"] == []


def test_hooks_need_an_admin_and_something_to_start(boss: Asker, ada: Asker) -> None:
    assert_problem(ada.post(HOOKS, json={"task": "summarise"}), 403, "forbidden")
    assert_problem(boss.post(HOOKS, json={"task": "nothing"}), 404, "not_found")
    hook = Hook(boss)
    assert boss.delete("/api/v1/tasks/summarise").status_code == 204
    assert_problem(hook.send(), 404, "not_found")
    assert hook.reasons() == ["not_found"]


def test_a_deleted_hook_is_unknown_and_the_trail_has_all(boss: Asker) -> None:
    hook = Hook(boss)
    boss.post(f"{HOOKS}/{hook.id}/rotate")
    boss.patch(f"{HOOKS}/{hook.id}", json={"description": "new"})
    assert boss.delete(f"{HOOKS}/{hook.id}").status_code == 204
    assert_problem(hook.send(), 401, "hook_refused")
    assert_problem(boss.get(f"{HOOKS}/{hook.id}"), 404, "not_found")
    trail = boss.get("/api/v1/audit-logs?resource_type=hook").json()["items"]
    assert [each["action"] for each in trail] == [
        "hook.delete", "hook.change", "hook.rotate", "hook.create"
    ]  # fmt: skip


def test_there_is_a_limit(boss: Asker, container: CoreServices) -> None:
    hook = Hook(boss)
    with container.database.transaction() as connection:
        connection.exec_driver_sql(
            "INSERT INTO hooks (id, workspace_id, owner_id, task_id, verification, per_minute)"
            " SELECT gen_random_uuid(), workspace_id, owner_id, task_id, verification, 1"
            " FROM hooks, generate_series(2, 200)"
        )
    assert_problem(boss.post(HOOKS, json={"task": "summarise"}), 409, "conflict")
    boss.delete(f"{HOOKS}/{hook.id}")
    assert boss.post(HOOKS, json={"task": "summarise"}).status_code == 201


def test_another_workspace_learns_nothing(boss: Asker, person: Callable[..., Asker]) -> None:
    hook = Hook(boss)
    other = person("other", Role.ADMIN)
    path = f"{HOOKS}/{hook.id}"
    assert_problem(other.get(path), 404, "not_found")
    assert_problem(other.get(f"{path}/deliveries"), 404, "not_found")
    assert_problem(other.post(f"{path}/rotate"), 404, "not_found")
    assert_problem(other.post(f"{path}/test"), 404, "not_found")
    assert_problem(other.patch(path, json={"per_minute": 1}), 404, "not_found")
    assert_problem(other.post(f"{path}/pause"), 404, "not_found")
    assert_problem(other.post(f"{path}/resume"), 404, "not_found")
    assert_problem(other.delete(path), 404, "not_found")
    assert other.get(HOOKS).json()["items"] == []
    assert_problem(other.post(HOOKS, json={"task": str(uuid4())}), 404, "not_found")


def test_the_client_and_the_command_line_manage_hooks(
    client: Client,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Any,
) -> None:
    sign_in(client, monkeypatch)

    def run(*arguments: str) -> str:
        assert main(arguments) == 0, capsys.readouterr().err
        return capsys.readouterr().out  # the server logs before it

    made = client.hooks.create(task="summarise", mapping={"text": "${{ body.issue.title }}"})
    receipt = client.hooks.test(made.id, BODY, headers={"X-Kind": "a"}, query={"b": "c"})
    assert client.executions.get(receipt.execution_id or "").trigger_type == "webhook"
    (delivery,) = client.hooks.deliveries(made.id, status="accepted")
    assert delivery.execution_id == receipt.execution_id
    assert (delivery.delivery_id or "").startswith("test_")
    changed = client.hooks.change(made.id, when="body.a == 1", mapping=None)
    assert (changed.when, changed.mapping) == ("body.a == 1", None)
    assert client.hooks.change(made.id, when=None).when is None
    assert client.hooks.rotate(made.id, overlap_hours=2).secret != made.secret

    secret = tmp_path / "secret"
    secret.write_text(f"{STRIPE_SECRET}\n")
    new = run("hooks", "create", "--task", "summarise", "-m", "text=${{ body.name }}",
              "--when", "body.name != ''", "--verification", "stripe",
              "--secret-file", str(secret)).split()  # fmt: skip
    assert new[-1] == STRIPE_SECRET
    assert "/hooks/" in new[-2]
    started = run("hooks", "test", "last", "--body", '{"name": "ACME", "id": "evt_1"}').split()[-1]
    assert client.executions.get(started).variables == {"text": "ACME"}
    assert run("hooks", "test", "last", "--body", '{"name": ""}').split()[-1] == "ignored"
    assert main(["hooks", "test", "last", "--body", "{"]) == 2
    assert main(["hooks", "test", "last"]) != 0, "the mapping has no value"
    assert "${{ body.name }}" in run("hooks", "show", "last")
    assert "invalid_input" in run("hooks", "deliveries", "last", "--status", "refused")
    assert started in run("hooks", "deliveries", "last", "--json")
    assert "paused" in run("hooks", "pause", "last")
    assert "active" in run("hooks", "resume", "last")
    assert "leads" in run("hooks", "change", "last", "--description", "leads")
    assert "leads" in run("hooks", "list", "--json")
    assert run("hooks", "rotate", "last", "--overlap-hours", "0").split()[-1].startswith("whsec_")
    run("hooks", "delete", "last")
    run("hooks", "delete", str(made.id))
    with pytest.raises(ClientError, match="hook"):
        client.hooks.get(made.id)
