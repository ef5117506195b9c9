"""Approval steps over HTTP, with the client, on the command line, by links and in notices."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from fastapi.testclient import TestClient

from celeriac.cli.main import main
from celeriac.client import Client
from celeriac.services.approvals.answer import ApprovalLinks
from celeriac.services.approvals.notify import Notification, Notifications
from celeriac.wiring.core import CoreServices, secret_key
from tests.support.api import Asker, assert_problem

APPROVALS = "/api/v1/approvals"
RUNS = "/api/v1/workflow-runs"
HOSTILE = '<script>alert(1)</script>"><img src=x>{{ 7 * 7 }}\x1b]0;title\x07'
SPEC: dict[str, Any] = {
    "input": {"x": "string"},
    "steps": {
        "ok": {"approve": "May it be sent?", "show": {"text": "${{ input.x }}"}, "expires": "1h"},
        "again": {"approve": "Really?", "needs": ["ok"]},
    },
    "returns": "${{ steps.ok.result.note }}",
}


def start(asker: Asker, text: str = "hello") -> tuple[str, dict[str, Any]]:
    """Start a run that asks; return its id and its question."""
    if asker.get("/api/v1/workflows/mail").status_code == 404:
        made = asker.post("/api/v1/workflows", json={"name": "mail", "spec": SPEC})
        assert made.status_code == 201, made.text
    started = asker.post("/api/v1/workflows/mail/run", json={"input": {"x": text}})
    run_id = str(started.json()["run_id"])
    (asked,) = asker.get(f"{APPROVALS}?workflow_run_id={run_id}").json()["items"]
    return run_id, asked


def test_a_question_of_a_run_is_listed_shown_and_answered(ada: Asker) -> None:
    run_id, asked = start(ada)

    assert ada.get(f"{APPROVALS}?status=open").json()["items"] == [asked]
    assert ada.get(asked["_links"]["self"]).json() == asked
    assert ada.get(asked["_links"]["workflow_run"]).json()["id"] == run_id
    assert ada.get(asked["_links"]["workflow"]).json()["name"] == "mail"
    assert asked["_links"]["execution"] is None
    assert {
        "workflow_run_id": run_id, "workflow_name": "mail", "step": "ok", "kind": "step",
        "title": "May it be sent?", "arguments": {"text": "hello"}, "on_expiry": "fail",
        "execution_id": None, "task_id": None, "task_name": None, "attempt": None, "tool": None,
    }.items() <= asked.items()  # fmt: skip
    (item,) = ada.get(f"{RUNS}/{run_id}/steps/ok/items").json()["items"]
    assert (item["status"], item["_links"]["approval"]) == ("running", asked["_links"]["self"])

    body = {"approved": True, "note": "fine"}
    answered = ada.post(asked["_links"]["answer"], json=body).json()
    assert (answered["status"], answered["answered_by"]) == ("answered", "ada")
    assert ada.post(asked["_links"]["answer"], json=body).json() == answered
    other = ada.post(asked["_links"]["answer"], json={"approved": False})
    assert_problem(other, 409, "approval_closed")
    with_value = {"approved": True, "value": {"text": "bye"}}
    (second,) = ada.get(f"{APPROVALS}?workflow_run_id={run_id}&status=open").json()["items"]
    assert_problem(ada.post(second["_links"]["answer"], json=with_value), 422, "answer_invalid")
    ada.post(second["_links"]["answer"], json={"approved": True})

    run = ada.get(f"{RUNS}/{run_id}").json()
    assert (run["status"], run["result"]) == ("completed", "fine")
    trail = ada.get("/api/v1/audit-logs?action=approval.answer").json()["items"]
    assert [entry["details"]["step"] for entry in trail] == ["again", "ok"]
    log = ada.get(f"{RUNS}/{run_id}/events").json()["items"]
    assert [e["data"]["approval_id"] for e in log if e["type"] == "approval_answered"] == [
        asked["id"], second["id"],
    ]  # fmt: skip


def test_a_cancelled_run_takes_its_question_back(ada: Asker) -> None:
    run_id, asked = start(ada)

    assert ada.post(f"{RUNS}/{run_id}/cancel").json()["status"] == "cancelled"

    assert ada.get(asked["_links"]["self"]).json()["status"] == "withdrawn"
    late = ada.post(asked["_links"]["answer"], json={"approved": True})
    assert "workflow run has stopped" in assert_problem(late, 409, "approval_closed")["detail"]


def test_members_of_other_workspaces_learn_nothing(
    ada: Asker, person: Callable[..., Asker]
) -> None:
    run_id, asked = start(ada, "a secret of ada")
    eve = person("eve")
    unknown = f"{APPROVALS}/{run_id}"

    assert eve.get(APPROVALS).json()["items"] == []
    assert eve.get(f"{APPROVALS}?workflow_run_id={run_id}").json()["items"] == []
    for path, unknown_path in [
        (asked["_links"]["answer"], f"{unknown}/answer"),
        (f"{asked['_links']['self']}/link", f"{unknown}/link"),
        (f"{asked['_links']['self']}/revoke-links", f"{unknown}/revoke-links"),
    ]:
        body = {"json": {"approved": True}} if path.endswith("answer") else {}
        refused = eve.post(path, **body)
        assert_problem(refused, 404, "not_found")
        same = eve.post(unknown_path, **body).json()
        assert refused.json()["detail"].replace(asked["id"], run_id) == same["detail"]
    assert_problem(eve.get(asked["_links"]["self"]), 404, "not_found")
    assert ada.get(asked["_links"]["self"]).json() == asked


def test_a_link_shows_the_question_of_a_run_and_answers_it_once(
    ada: Asker, app_client: TestClient
) -> None:
    run_id, asked = start(ada, HOSTILE)
    url = ada.post(f"{asked['_links']['self']}/link").json()["url"]
    path = "/api/v1" + url.partition("/api/v1")[2]
    browser = {"Accept": "text/html"}

    page = app_client.get(path, headers=browser).text
    assert "<h1>A workflow asks</h1>" in page
    assert "Workflow mail, step ok · answer by" in page
    assert "Note to the agent" not in page
    assert "<script>" not in page
    assert "<img" not in page
    assert "{{ 7 * 7 }}" in page
    shown = app_client.get(path, headers={"Accept": "application/json"}).json()
    assert (shown["workflow_name"], shown["step"], shown["task_name"]) == ("mail", "ok", None)
    assert shown["arguments"] == {"text": HOSTILE}

    answer = {"decision": "deny", "note": "no"}
    assert "was denied" in app_client.post(path, data=answer, headers=browser).text
    answer["decision"] = "approve"
    assert app_client.post(path, data=answer, headers=browser).status_code == 409

    run = ada.get(f"{RUNS}/{run_id}").json()
    assert [step["status"] for step in run["steps"]] == ["denied", "skipped"]


def test_a_notice_names_the_run_and_the_step(ada: Asker, container: CoreServices) -> None:
    run_id, asked = start(ada)
    sent: list[Notification] = []

    def send(notices: Any) -> list[Any]:
        sent.extend(notices)
        return [each.approval_id for each in notices]

    links = ApprovalLinks(secret_key(container.settings))
    notify = Notifications(container.database, links, send, public_url="https://c.example")
    assert (notify.send_due(), notify.send_due()) == (1, 0)

    body = json.loads(sent[0].body)
    assert {
        "id": asked["id"], "workflow_run_id": run_id, "workflow_name": "mail", "step": "ok",
        "kind": "step", "title": "May it be sent?", "arguments": {"text": "hello"},
        "execution_id": None, "task_id": None, "task_name": None,
    }.items() <= body["approval"].items()  # fmt: skip
    token = body["links"]["answer"].rpartition("/")[2]
    answered = ada.post(f"{APPROVALS}/links/{token}", json={"approved": True})
    assert answered.json()["approved"] is True


def test_the_client_and_the_command_line_list_and_answer(
    client: Client,
    api_url: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CELERIAC_API_URL", api_url)
    monkeypatch.setenv("CELERIAC_API_KEY", client.keys.create("cli").token)
    client.workflows.create("mail", SPEC)
    run_id = str(client.workflows.start("mail", {"x": HOSTILE}).run_id)
    (asked,) = client.approvals.list(workflow_run_id=run_id, status="open")
    assert (str(asked.workflow_run_id), asked.step) == (run_id, "ok")

    def celeriac(*arguments: str) -> str:
        assert main(arguments) == 0, capsys.readouterr().err
        out, err = capsys.readouterr()
        return out + err

    listed = celeriac("approvals", "list", "--run", run_id)
    assert "mail.ok" in listed
    shown = celeriac("approvals", "show", "last")
    assert "run" in shown
    assert "alert(1)" in shown
    assert "\x1b]0;" not in shown
    assert "▸ ok · waits for an answer" in celeriac("workflow-runs", "show", run_id)
    assert str(asked.id)[:8] in celeriac("workflow-runs", "items", run_id, "ok")

    said = celeriac("approvals", "answer", str(asked.id), "--approve", "--note", "fine")
    assert "approved" in said
    assert "celeriac workflow-runs follow" in said
    (second,) = client.approvals.list(workflow_run_id=run_id, status="open")
    assert client.approvals.answer(second.id, approved=False).approved is False
    assert client.workflow_runs.wait(run_id, timeout=5).status == "completed"
    assert "- again · denied" in celeriac("workflow-runs", "show", run_id)
