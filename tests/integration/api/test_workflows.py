"""Workflows over HTTP: stored, changed, run, read, cancelled."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from celeriac.cli.main import main
from celeriac.client import Client, ClientError
from celeriac.domain.executions.model import Completed, Failed, Failure, Outcome
from celeriac.wiring.core import CoreServices
from tests.support.api import TASK, Asker, assert_problem
from tests.support.working import claim, finish

PATH = "/api/v1/workflows"
RUNS = "/api/v1/workflow-runs"
SPEC: dict[str, Any] = {
    "input": {"texts": "array"},
    "steps": {
        "sums": {"task": "summarise", "map": "input.texts", "with": {"text": "${{ item }}"}},
        "all": {"task": "summarise", "with": {"text": "${{ string(size(steps.sums.results)) }}"}},
    },
    "returns": "${{ steps.all.result }}",
}


OUTER = """\
workflow: outer
description: runs another
steps:
  inner: {workflow: brief, with: {texts: [a]}}
"""


@pytest.fixture
def brief(ada: Asker) -> str:
    """A workflow of ada's."""
    response = ada.post(PATH, json={"name": "brief", "spec": SPEC})
    assert response.status_code == 201, response.text
    return str(response.json()["id"])


def test_a_workflow_is_stored_listed_changed_and_deleted(ada: Asker, brief: str) -> None:
    assert [each["name"] for each in ada.get(PATH).json()["items"]] == ["brief"]
    assert ada.get(f"{PATH}/brief").json()["id"] == brief
    steps = {"only": {"task": "summarise", "with": {"text": "a"}}}
    changed = ada.patch(f"{PATH}/brief", json={"spec": {"steps": steps}}).json()
    assert changed["version"] == 2
    versions = ada.get(f"{PATH}/brief/versions").json()["items"]
    assert [each["version"] for each in versions] == [2, 1]
    assert list(versions[1]["spec"]["steps"]) == ["sums", "all"]
    assert_problem(ada.post(PATH, json={"name": "brief", "spec": SPEC}), 409, "name_taken")
    assert ada.delete(f"{PATH}/brief").status_code == 204
    assert_problem(ada.get(f"{PATH}/brief"), 404, "not_found")


def test_a_workflow_that_cannot_run_is_refused_with_all_its_faults(ada: Asker) -> None:
    steps = {
        "a": {"task": "summarize", "when": "input.x > 1"},
        "b": {"task": "summarise", "with": {"text": "${{ steps.c.result }}"}},
    }
    response = ada.post(PATH, json={"name": "bad", "spec": {"steps": steps}})
    problem = assert_problem(response, 422, "workflow_invalid")
    assert {each["field"] for each in problem["fields"]} == {
        "spec.steps.a.task", "spec.steps.a.when", "spec.steps.b.with.text",
    }  # fmt: skip
    assert ada.get(PATH).json()["items"] == []


def test_a_run_says_what_it_waits_for_and_one_too_many_is_refused(ada: Asker) -> None:
    steps = {"a": {"task": "summarise", "with": {"text": "a"}}}
    for name, policy in (("waits", "queue"), ("strict", "cancel_new")):
        limits = [{"key": "'crm:' + run.owner", "max": 1, "policy": policy}]
        ada.post(PATH, json={"name": name, "spec": {"steps": steps, "limits": limits}})
    first = ada.post(f"{PATH}/waits/run", json={}).json()["run_id"]
    second = ada.post(f"{PATH}/waits/run", json={}).json()
    assert second["status"] == "pending"
    (limit,) = ada.get(f"{RUNS}/{second['run_id']}").json()["limits"]
    assert limit["key"].startswith("crm:")
    assert {**limit, "key": ""} == {
        "key": "", "max": 1, "policy": "queue", "count": "running", "state": "waiting",
        "used": 1, "holders": [first], "limit_id": None, "name": None,
    }  # fmt: skip
    refused = assert_problem(ada.post(f"{PATH}/strict/run", json={}), 409, "limit_reached")
    assert refused["details"]["run_id"] == first
    cancelled = ada.post(f"{RUNS}/{second['run_id']}/cancel").json()
    assert (cancelled["status"], cancelled["limits"]) == ("cancelled", [])


def test_an_input_that_does_not_fit_starts_nothing(ada: Asker, brief: str) -> None:
    problem = assert_problem(ada.post(f"{PATH}/brief/run", json={}), 422, "input_invalid")
    assert "texts" in problem["detail"]
    assert ada.get(RUNS).json()["items"] == []
    assert_problem(ada.get(f"{RUNS}?workflwo=brief"), 422, "invalid_input")


def test_a_run_is_followed_to_its_end(ada: Asker, brief: str, container: CoreServices) -> None:
    texts = {"input": {"texts": ["a", "b", "c"]}}
    key = {"Idempotency-Key": "k1"}
    started = ada.post(f"{PATH}/brief/run", json=texts, headers=key)
    assert started.status_code == 202, started.text
    run_id = started.json()["run_id"]
    again = ada.post(f"{PATH}/brief/run", json=texts, headers=key)
    assert again.json()["run_id"] == run_id
    run = ada.get(f"{RUNS}/{run_id}").json()
    assert run["status"] == "running"
    assert [(s["step"], s["status"], s["items"]) for s in run["steps"]] == [
        ("sums", "running", 3), ("all", "blocked", 0),
    ]  # fmt: skip

    _work(ada, container, run_id, "sums", 3)
    _work(ada, container, run_id, "all", 1)

    run = ada.get(f"{RUNS}/{run_id}").json()
    assert (run["status"], run["result"]) == ("completed", {"summary": "all 0"})
    assert [(s["completed"], s["remaining"]) for s in run["steps"]] == [(3, 0), (1, 0)]
    items = ada.get(f"{RUNS}/{run_id}/steps/sums/items?include=result&limit=2").json()
    assert [each["result"]["summary"] for each in items["items"]] == ["sums 0", "sums 1"]
    second = ada.get(items["items"][1]["_links"]["execution"]).json()
    assert (second["workflow_run_id"], second["step"], second["item"]) == (run_id, "sums", 1)
    assert second["_links"]["workflow_run"] == f"{RUNS}/{run_id}"
    rest = ada.get(f"{RUNS}/{run_id}/steps/sums/items?after={items['next_after']}").json()
    assert [each["index"] for each in rest["items"]] == [2]
    assert "result" not in rest["items"][0]
    events = ada.get(f"{RUNS}/{run_id}/events").json()["items"]
    assert [each["seq"] for each in events] == list(range(1, len(events) + 1))
    assert (events[0]["type"], events[-1]["type"]) == ("created", "completed")
    stream = ada.get(f"{RUNS}/{run_id}/stream")
    assert stream.text.count("event: step") == len(events) - 2
    assert ada.get(f"{RUNS}/{run_id}/stream?after={len(events)}").status_code == 204
    assert [each["id"] for each in ada.get(f"{RUNS}?workflow=brief").json()["items"]] == [run_id]


def _work(ada: Asker, container: CoreServices, run_id: str, step: str, count: int) -> None:
    """End all executions of a step, as workers do."""
    container.dispatch.send_due()
    items = ada.get(f"{RUNS}/{run_id}/steps/{step}/items").json()["items"]
    assert len(items) == count
    for item in items:
        claimed = claim(container, item["execution_id"])
        finish(container, claimed, Completed({"summary": f"{step} {item['index']}"}))
        assert claimed.run_id is not None
        container.advance.after([claimed.run_id])


def test_a_run_is_cancelled_with_all_that_it_has_started(ada: Asker, brief: str) -> None:
    run_id = ada.post(f"{PATH}/brief/run", json={"input": {"texts": ["a"]}}).json()["run_id"]
    assert_problem(ada.delete(f"{PATH}/brief"), 409, "conflict")
    run = ada.post(f"{RUNS}/{run_id}/cancel").json()
    assert (run["status"], run["cancel_requested_by"]) == ("cancelled", "ada")
    assert {s["status"] for s in run["steps"]} == {"cancelled"}
    (item,) = ada.get(f"{RUNS}/{run_id}/steps/sums/items").json()["items"]
    assert item["status"] == "cancelled"
    assert ada.get(item["_links"]["execution"]).json()["status"] == "cancelled"
    assert ada.post(f"{RUNS}/{run_id}/cancel").json()["status"] == "cancelled"


def test_the_client_starts_and_reads_runs(client: Client) -> None:
    made = client.workflows.create("brief", SPEC)
    assert [each.name for each in client.workflows.list()] == ["brief"]
    assert client.workflows.change("brief", description="Briefs.").description == "Briefs."
    assert [each.version for each in client.workflows.versions(made.id)] == [1]
    run_id = client.workflows.start("brief", {"texts": ["a", "b"]}).run_id
    assert client.workflow_runs.get(run_id).steps[0].items == 2
    assert [each.index for each in client.workflow_runs.items(run_id, "sums")] == [0, 1]
    assert client.workflow_runs.cancel(run_id).status == "cancelled"
    assert client.workflow_runs.wait(run_id, timeout=5).status == "cancelled"
    assert [each.type for each in client.workflow_runs.events(run_id)][-1] == "cancelled"
    assert [each.id for each in client.workflow_runs.list(status="cancelled")] == [run_id]
    assert list(client.workflow_runs.items(run_id, "sums", status="completed")) == []
    cancelled = client.workflow_runs.items(run_id, "sums", status="cancelled", results=True)
    assert [each.index for each in cancelled] == [0, 1]
    again = client.workflow_runs.retry(run_id).run_id
    hour_ago = datetime.now(UTC) - timedelta(hours=1)
    recent = client.workflow_runs.list(
        top_level=True, trigger_type="manual", created_after=hour_ago, workflow="brief"
    )
    assert [each.id for each in recent] == [again, run_id]
    assert list(client.workflow_runs.list(created_before=hour_ago)) == []
    assert client.workflow_runs.get(again).origin_id == run_id
    client.workflow_runs.cancel(again)
    forked = client.workflow_runs.fork(run_id, step="all", results={"all": {"summary": "x"}})
    client.workflow_runs.cancel(forked.run_id)
    with pytest.raises(ClientError, match="The step 'sums' runs no workflow") as refused:
        client.workflow_runs.fork(run_id, step="sums[0]/all")
    assert (refused.value.status, refused.value.code) == (422, "invalid_input")
    client.workflows.delete("brief")


def _end(
    client: Client, container: CoreServices, run_id: UUID, step: str, outcome: Outcome
) -> None:
    """End the execution of a step, as a worker does."""
    container.dispatch.send_due()
    (item,) = client.workflow_runs.items(run_id, step)
    assert item.execution_id is not None
    finish(container, claim(container, item.execution_id), outcome)
    container.advance.after([run_id])


FAILED = Failed(Failure("agent_failed", "no", {}))


def test_undo_steps_are_shown_and_a_failed_compensation_is_retried(
    client: Client,
    container: CoreServices,
    api_url: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    client.tasks.create("take-back", TASK["agent"], {"prompt": "Undo {{ result.id }}."})
    text = {"text": "a"}
    steps = {
        "book": {"task": "summarise", "with": text, "undo": "take-back"},
        "pay": {"task": "summarise", "with": text, "needs": ["book"], "retry": 0},
    }
    client.workflows.create("trip", {"steps": steps})
    run_id = client.workflows.start("trip").run_id
    _end(client, container, run_id, "book", Completed({"id": 7}))
    _end(client, container, run_id, "pay", FAILED)
    run = client.workflow_runs.get(run_id)
    assert run.status == "compensating"
    assert run.links["cancel"] is None
    assert client.workflow_runs.cancel(run_id).status == "compensating"
    assert [(each.step, each.undoes, each.status) for each in run.steps] == [
        ("book", None, "completed"), ("pay", None, "failed"), ("book.undo", "book", "running"),
    ]  # fmt: skip
    _end(client, container, run_id, "book.undo", FAILED)
    run = client.workflow_runs.get(run_id)
    assert (run.status, run.compensation) == ("failed", "compensation_failed")
    with pytest.raises(ClientError, match="Retry its compensation first"):
        client.workflow_runs.retry(run_id)

    monkeypatch.setenv("CELERIAC_API_URL", api_url)
    monkeypatch.setenv("CELERIAC_API_KEY", client.keys.create("cli").token)
    assert main(["workflow-runs", "retry", str(run_id), "--compensation"]) == 0
    again = UUID(capsys.readouterr().out.split()[-1])
    assert client.workflow_runs.get(run_id).compensation_run_id == again
    assert run.links["compensation_run"] is None
    found = client.workflow_runs.get(run_id).links["compensation_run"]
    assert found == f"{RUNS}/{again}"
    _end(client, container, again, "book.undo", Completed(None))
    assert client.workflow_runs.get(again).compensation == "compensated"
    assert main(["workflow-runs", "show", str(again)]) == 0
    shown = capsys.readouterr().out
    assert "trip · failed · " in shown
    assert " · compensated · " in shown
    assert "✓ book.undo · completed" in shown
    (item,) = client.workflow_runs.items(again, "book.undo")
    assert item.execution_id is not None
    execution = client.executions.get(item.execution_id)
    assert (execution.workflow_run_id, execution.step, execution.variables) == (
        again, "book.undo", {"input": text, "result": {"id": 7}, "error": None},
    )  # fmt: skip
    with pytest.raises(ClientError, match=str(again)):
        client.workflow_runs.retry(run_id, compensation=True)


def test_the_command_line_creates_runs_and_shows(
    client: Client,
    api_url: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CELERIAC_API_URL", api_url)
    monkeypatch.setenv("CELERIAC_API_KEY", client.keys.create("cli").token)
    file, outer = tmp_path / "brief.json", tmp_path / "outer.yaml"
    file.write_text(json.dumps(SPEC), encoding="utf-8")
    outer.write_text(OUTER, encoding="utf-8")

    def celeriac(*arguments: str, code: int = 0) -> str:
        assert main(arguments) == code, capsys.readouterr().err
        return capsys.readouterr().out

    def id_of(*arguments: str) -> str:
        return celeriac(*arguments).split()[-1]  # the server logs before it

    assert "brief" in celeriac("workflows", "create", "brief", "--spec", str(file))
    assert "brief" in celeriac("workflows", "list")
    run_id = id_of("workflows", "run", "brief", "--var", 'texts:=["a"]', "--detach")
    assert run_id in celeriac("workflow-runs", "list", "--workflow", "brief")
    shown = celeriac("workflow-runs", "show", "last")
    assert "▸ sums · running" in shown
    assert "· all · blocked" in shown
    assert run_id in celeriac("workflow-runs", "list", "--top-level", "--trigger", "manual")
    assert run_id in celeriac("workflow-runs", "list", "--since", "1h")
    assert run_id not in celeriac("workflow-runs", "list", "--until", "1h")
    assert "queued" in celeriac("workflow-runs", "items", "last", "sums")
    assert "queued" not in celeriac("workflow-runs", "items", "last", "sums", "-s", "failed")
    celeriac("workflow-runs", "items", "last", "sums", "-s", "broken", code=2)
    assert "cancelled" in celeriac("workflow-runs", "cancel", run_id)
    celeriac("workflow-runs", "follow", run_id, code=1)
    again = id_of("workflow-runs", "retry", run_id)
    celeriac("workflow-runs", "cancel", again)
    forked = id_of("workflow-runs", "fork", run_id, "--step", "sums")
    celeriac("workflow-runs", "cancel", forked)

    assert "runs another" in celeriac("workflows", "create", "outer", "--spec", str(outer))
    outer_id = id_of("workflows", "run", "outer", "--detach")
    celeriac("workflow-runs", "items", outer_id, "inner")
    assert "outer" in celeriac("workflow-runs", "show", "last"), "not the one below it"
    celeriac("workflow-runs", "cancel", "last")
    changed = celeriac("workflows", "update", "outer", "--spec", str(outer), "--description", "x")
    assert "runs another" not in changed
    celeriac("workflows", "delete", "outer")
    celeriac("workflows", "delete", "brief")
