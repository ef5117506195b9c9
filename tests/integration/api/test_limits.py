"""Limits of the workspace over HTTP, with the client and the command line."""

import json
import re
from collections.abc import Callable
from typing import Any

import pytest

from celeriac.cli.main import main
from celeriac.client import Client, ClientError
from celeriac.domain.accounts import Role
from celeriac.wiring.core import CoreServices
from celeriac.wiring.keeper import build_maintenance
from tests.support.api import EXECUTE, Asker, assert_problem, sign_in

pytestmark = pytest.mark.requirement("F13")

LIMITS = "/api/v1/limits"
OF_TASK = {"name": "texts", "task": "summarise", "key": "variables.text", "max": 1}

OF_RUNS = {"name": "few", "workflow": "w", "of": "runs", "key": "input.key", "max": 1}


def _execute(asker: Asker, text: str = "a") -> str:
    response = asker.post(EXECUTE, json={"variables": {"text": text}})
    assert response.status_code == 202, response.text
    return f"/api/v1/task-executions/{response.json()['execution_id']}"


def test_a_limit_is_set_changed_and_deleted_while_executions_wait(
    ada: Asker, container: CoreServices
) -> None:
    before = [_execute(ada) for _ in range(2)]
    made = ada.post(LIMITS, json=OF_TASK)
    assert made.status_code == 201, made.text
    found = made.json()
    assert (found["task_name"], found["held"], found["waiting"]) == ("summarise", 0, 0)
    jobs = {each.name: each for each in build_maintenance(container)}
    assert jobs["attach_limits"].work() == 1
    first, second = _execute(ada), _execute(ada)
    shown = ada.get(f"{LIMITS}/texts").json()
    assert (shown["held"], shown["waiting"]) == (2, 2), "what was sent before counts"
    assert ada.get(before[0]).json()["limit_keys"] == ["limit:texts:a"]
    reason = ada.get(f"{first}/why").json()["reasons"][0]
    assert (reason["code"], reason["subject"]) == ("limit", {"kind": "limit", "id": found["id"]})
    assert "limit 'texts' of the workspace" in reason["text"]

    changed = ada.patch(found["_links"]["self"], json={"max": 3}).json()
    assert (changed["max"], changed["held"], changed["waiting"]) == (3, 3, 1)
    assert [ada.get(each).json()["held"] for each in (first, second)] == [None, "limit"]
    assert ada.get(LIMITS).json()["items"] == [changed]

    assert ada.delete(f"{LIMITS}/texts").status_code == 204
    assert ada.get(second).json()["status"] == "queued"
    assert_problem(ada.get(f"{LIMITS}/texts"), 404, "not_found")
    actions = [each["action"] for each in ada.get("/api/v1/audit-logs?limit=100").json()["items"]]
    assert [each for each in actions if each.startswith("limit.")] == [
        "limit.delete", "limit.change", "limit.create",
    ]  # fmt: skip


def test_bad_input_and_those_who_may_not_change_nothing(
    ada: Asker, person: Callable[..., Asker]
) -> None:
    for body, words in (
        ({"name": "a"}, "max"),
        ({"name": "a", "max": 0}, "max"),
        ({"name": "a b", "max": 1}, "name"),
        ({"name": "a", "max": 1, "key": "variables."}, "key"),
        ({"name": "a", "max": 1, "key": "inputs.a"}, "there is no inputs here"),
        ({"name": "a", "max": 1, "burst": 2}, "burst is only for a rate"),
        ({"name": "a", "max": 1, "seconds": 1, "policy": "cancel_new"}, "policy queue"),
        ({"name": "a", "max": 1, "policy": "drop"}, "policy"),
        ({"name": "a", "max": 1_000_000, "seconds": 0.0001}, "1,000,000 a second"),
        ({"name": "a", "max": 1, "seconds": 31_622_400, "burst": 1_000_000}, "100 years"),
        (OF_TASK | {"workflow": "w"}, "a task or a workflow"),
        ({"name": "a", "max": 1, "of": "runs"}, "name it as workflow"),
        (OF_RUNS | {"key": "variables.key"}, "there is no variables here"),
        (OF_RUNS | {"key": "run.id"}, "run has no id here"),
        (OF_RUNS | {"seconds": 1}, "leave seconds out"),
        (OF_TASK | {"count": "active"}, "only for a limit of runs"),
    ):
        response = ada.post(LIMITS, json=body)
        assert response.status_code == 422, (body, response.text)
        assert words in response.text
    assert_problem(ada.post(LIMITS, json=OF_TASK | {"task": "nothing"}), 404, "not_found")
    viewer, other = person("eve", Role.VIEWER), person("bob")
    assert_problem(viewer.post(LIMITS, json=OF_TASK), 403, "forbidden")
    assert ada.get(LIMITS).json()["items"] == []

    assert ada.post(LIMITS, json=OF_TASK).status_code == 201
    assert_problem(ada.post(LIMITS, json=OF_TASK), 409, "name_taken")
    assert other.get(LIMITS).json()["items"] == []
    path = f"{LIMITS}/texts"
    for response in (other.get(path), other.patch(path, json={"max": 9}), other.delete(path)):
        assert_problem(response, 404, "not_found")
    assert_problem(viewer.patch(path, json={"max": 9}), 403, "forbidden")
    assert_problem(ada.patch(path, json={"seconds": 5}), 422, "invalid_input")
    assert_problem(ada.patch(path, json={"max": None}), 422, "invalid_input")
    assert ada.get(path).json()["max"] == 1


def test_the_client_and_the_command_line_set_limits(
    client: Client, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    sign_in(client, monkeypatch)

    def run(*arguments: str) -> Any:
        assert main(("limits", *arguments, "--json")) == 0, capsys.readouterr().err
        # the server of this process writes its log to the same place
        out = capsys.readouterr().out
        begin = re.search(r"^[\[{]", out, re.MULTILINE)
        assert begin is not None, out
        return json.JSONDecoder().raw_decode(out, begin.start())[0]

    made = run("create", "per-customer", "--key", "variables.text", "--max", "3")
    assert (made["key"], made["max"], made["task_id"]) == ("variables.text", 3, None)
    rate = run("create", "crm", "--task", "summarise", "--max", "100", "--seconds", "60")
    assert (rate["task_name"], rate["seconds"]) == ("summarise", 60)
    assert run("change", "per-customer", "--max", "5")["max"] == 5
    assert run("show", rate["id"]) == rate
    client.executions.execute("summarise", {"text": "a"})
    assert [(each["name"], each["held"]) for each in run("list")] == [
        ("crm", 1), ("per-customer", 1),
    ]  # fmt: skip
    assert main(("limits", "create", "a", "--max", "1", "--task", "x", "--workflow", "y")) == 2
    assert main(("limits", "list")) == 0
    shown = capsys.readouterr().out
    assert "100 in 60 s" in shown
    assert "5 slots" in shown
    _pause_and_resume(client, capsys)
    assert run("delete", "crm") == {"limit": "crm", "deleted": True}
    assert main(("limits", "change", "per-customer")) == 2
    assert main(("limits", "show", "crm")) == 3
    capsys.readouterr()

    found = client.limits.get("per-customer")
    assert client.limits.change(found.id, max=2, policy="cancel_new").policy == "cancel_new"
    client.limits.delete("per-customer")
    again = client.limits.create("per-customer", key="variables.text", max=1, policy="cancel_new")
    assert [each.id for each in client.limits.list()] == [again.id]
    client.executions.execute("summarise", {"text": "b"})
    with pytest.raises(ClientError, match="limit:per-customer:b"):
        client.executions.execute("summarise", {"text": "b"})


def test_a_limit_of_runs_is_set_and_changed_and_says_what_runs_wait_for(
    client: Client, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    sign_in(client, monkeypatch)
    steps = {"a": {"approve": "Go on?"}}
    client.workflows.create("w", {"input": {"key": "string"}, "steps": steps})
    assert main(("limits", "create", "few", "--of", "runs", "--max", "1")) == 2
    assert "give --workflow" in capsys.readouterr().err
    create = ("limits", "create", "few", "--workflow", "w", "--of", "runs", "--key", "input.key")
    assert main((*create, "--max", "1", "--count", "active")) == 0
    assert "runs of w" in capsys.readouterr().out
    first, second = (client.workflows.start("w", {"key": "k"}) for _ in range(2))
    [waiting] = client.workflow_runs.get(second.run_id).limits
    assert (waiting.name, waiting.key, waiting.max) == ("few", "limit:few:k", 1)
    assert main(("why", str(second.run_id))) == 0
    said = f"waits for the limit 'few' (limit:few:k): 1 of 1 slot used by {first.run_id}"
    assert said in capsys.readouterr().out
    found = client.limits.get("few")
    assert (found.of, found.count, found.held, found.waiting) == ("runs", "active", 1, 1)
    assert main(("limits", "delete", "few", "--dry-run")) == 0
    assert "in use by 2 runs: 1 of them would wait no more" in capsys.readouterr().out
    assert main(("limits", "change", "few", "--max", "2")) == 0
    assert main(("limits", "list")) == 0
    assert client.workflow_runs.get(second.run_id).status == "running"
    client.limits.delete("few")
    again = client.limits.create("few", workflow="w", of="runs", key="input.key", max=5)
    assert (again.of, again.count, again.workflow_name) == ("runs", "running", "w")


def _pause_and_resume(client: Client, capsys: pytest.CaptureFixture[str]) -> None:
    """Pause the limit and a key of it; say so in lists, why and the situation report."""
    for scope, name in (("limit", "crm"), ("key", "limit:per-customer:c")):
        assert main(("pause", scope, name, "--reason", "Moving.")) == 0
    waiting = client.executions.execute("summarise", {"text": "c"})
    assert main(("why", str(waiting.execution_id))) == 0
    assert main(("pauses", "list")) == 0
    assert main(("sitrep",)) in (0, 1)
    shown = capsys.readouterr().out
    assert "has paused the limit 'crm': Moving." in shown
    assert "has paused the key 'limit:per-customer:c': Moving." in shown
    assert "Paused: the limit crm" in shown
    listed = [(each.limit_name, each.key) for each in client.pauses.list()]
    assert listed == [(None, "limit:per-customer:c"), ("crm", None)]
    assert main(("resume", "limit", "crm")) == 0
    assert client.executions.get(waiting.execution_id).held == "limit"
    assert main(("resume", "key", "limit:per-customer:c")) == 0
    assert client.executions.get(waiting.execution_id).held is None
    assert main(("resume", "key", "limit:per-customer:c")) == 3
    paused = client.pauses.pause("limit", limit="crm", reason="x")
    assert client.pauses.resume(paused.id).limit_name == "crm"
    assert main(("pause", "key", "--reason", "x")) == 2
    capsys.readouterr()
