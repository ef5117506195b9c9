"""Pauses over HTTP, with the client and the command line."""

import json
import re
from collections.abc import Callable
from typing import Any

import pytest

from celeriac.cli.main import main
from celeriac.client import Client, ClientError
from celeriac.db import workers
from celeriac.domain.accounts import Role
from celeriac.domain.executions.model import WorkerIdentity
from celeriac.kit.ids import uuid7
from celeriac.wiring.core import CoreServices
from celeriac.wiring.keeper import build_maintenance
from tests.support.api import EXECUTE, Asker, assert_problem, sign_in
from tests.support.core import describe

pytestmark = pytest.mark.requirement("F15")

PAUSES = "/api/v1/pauses"
REASON = "The supplier's API is down."
TASK = {"scope": "task", "task": "summarise", "reason": REASON}
QUEUE = {"scope": "queue", "queue": "task_execution", "reason": REASON}


def _execute(asker: Asker) -> dict[str, Any]:
    response = asker.post(EXECUTE, json={"variables": {"text": "a"}})
    assert response.status_code == 202, response.text
    found: dict[str, Any] = response.json()
    return found


def test_a_paused_task_waits_says_why_and_goes_on(ada: Asker, container: CoreServices) -> None:
    made = ada.post(PAUSES, json=TASK)
    assert made.status_code == 201, made.text
    pause = made.json()
    assert (pause["scope"], pause["task_name"], pause["created_by"]) == ("task", "summarise", "ada")
    assert ada.get(pause["_links"]["self"]).json() == pause
    again = ada.post(PAUSES, json=TASK | {"reason": "Another one."})
    assert (again.status_code, again.json()) == (200, pause), "the first one stays"

    accepted = _execute(ada)
    assert accepted["status"] == "pending"
    path = f"/api/v1/task-executions/{accepted['execution_id']}"
    assert ada.get(path).json()["held"] == "paused"
    why = ada.get(f"{path}/why").json()
    assert why["text"] == f"ada has paused the task 'summarise': {REASON}"
    assert why["reasons"][0]["code"] == "pause"
    assert why["reasons"][0]["subject"] == {"kind": "pause", "id": pause["id"]}
    assert why["reasons"][0]["since"] == pause["created_at"]

    jobs = {each.name: each for each in build_maintenance(container)}
    assert jobs["hold_paused"].work() == 0, "it was held from the start"
    ended = ada.post(pause["_links"]["resume"])
    assert (ended.status_code, ended.json()) == (200, pause | {"left": 0})
    assert ada.get(path).json()["status"] == "queued"
    assert ada.get(PAUSES).json()["items"] == []
    assert_problem(ada.post(pause["_links"]["resume"]), 404, "not_found")


def test_queues_and_the_system_are_for_administrators(
    admin: Asker, ada: Asker, person: Callable[..., Asker]
) -> None:
    for body in (QUEUE, {"scope": "system", "reason": REASON}):
        assert_problem(ada.post(PAUSES, json=body), 403, "forbidden")
        pause = admin.post(PAUSES, json=body).json()
        assert ada.get(PAUSES).json()["items"] == [pause], "whom it holds up sees it"
        assert_problem(ada.post(pause["_links"]["resume"]), 403, "forbidden")
        accepted = _execute(ada)
        assert accepted["status"] == "pending"
        path = f"/api/v1/task-executions/{accepted['execution_id']}"
        assert ada.get(path).json()["held"] == "paused"
        assert ada.get(f"{path}/why").json()["reasons"][0]["subject"]["id"] == pause["id"]
        assert admin.post(pause["_links"]["resume"]).status_code == 200
        assert ada.get(path).json()["status"] == "queued"
    viewer = person("eve", Role.VIEWER)
    assert_problem(viewer.post(PAUSES, json=TASK), 403, "forbidden")
    assert viewer.get(PAUSES).json()["items"] == []


def test_who_may_not_pause_a_worker_does_not_learn_whether_it_exists(
    admin: Asker, ada: Asker
) -> None:
    body = {"scope": "worker", "worker": "celery@nowhere", "reason": REASON}
    assert_problem(ada.post(PAUSES, json=body), 403, "forbidden")
    assert_problem(admin.post(PAUSES, json=body), 404, "not_found")


def test_what_another_workspace_has_paused_is_not_there(
    ada: Asker, person: Callable[..., Asker]
) -> None:
    pause = ada.post(PAUSES, json=TASK).json()
    other = person("bob")
    assert other.get(PAUSES).json()["items"] == []
    for each in ("self", "resume"):
        method = "GET" if each == "self" else "POST"
        assert_problem(other.request(method, pause["_links"][each]), 404, "not_found")
    assert_problem(other.post(PAUSES, json=TASK), 404, "not_found")


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"scope": "queue", "reason": "x"}, "the scope queue needs the field queue"),
        ({"scope": "task", "queue": "a", "reason": "x"}, "the field queue is only for the scope"),
        ({"scope": "system", "task": "a", "reason": "x"}, "the field task is only for the scope"),
        ({"scope": "worker", "reason": "x"}, "the scope worker needs the field worker"),
        ({"scope": "worker", "worker": "w" * 256, "reason": "x"}, "worker"),
        ({"scope": "key", "reason": "x"}, "the scope key needs the field key"),
        ({"scope": "keys", "reason": "x"}, "scope"),
        ({"scope": "workspace"}, "reason"),
        ({"scope": "workspace", "reason": "  "}, "reason"),
        ({"scope": "workspace", "reason": "x" * 501}, "reason"),
        ({"scope": "queue", "queue": "a b", "reason": "x"}, "queue"),
    ],
)
def test_bad_input_names_its_field_and_nothing_is_paused(
    admin: Asker, body: dict[str, Any], words: str
) -> None:
    response = admin.post(PAUSES, json=body)
    assert response.status_code == 422, response.text
    assert words in response.text
    assert admin.get(PAUSES).json()["items"] == []


def test_the_client_and_the_command_line_pause_and_resume(
    client: Client,
    container: CoreServices,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sign_in(client, monkeypatch)

    def run(*arguments: str) -> Any:
        assert main((*arguments, "--json")) == 0, capsys.readouterr().err
        # the server of this process writes its log to the same place
        out = capsys.readouterr().out
        begin = re.search(r"^[\[{]", out, re.MULTILINE)
        assert begin is not None, out
        return json.JSONDecoder().raw_decode(out, begin.start())[0]

    reported = describe(WorkerIdentity(uuid7(), "celery@shop-1"))
    with container.database.autocommit() as connection:
        workers.report(connection, reported)
    worker = run("pause", "worker", "celery@shop-1", "--reason", REASON, "--wait")
    assert client.celery_health().processes[0].paused
    assert run("resume", "worker", "celery@shop-1")["id"] == worker["id"]
    assert main(("pause", "system", "--reason", REASON, "--wait")) == 2
    queue = run("pause", "queue", "enrichment", "--reason", REASON)
    assert (queue["queue"], queue["reason"]) == ("enrichment", REASON)
    task = run("pause", "task", "summarise", "--reason", REASON)
    assert [each["id"] for each in run("pauses", "list")] == [task["id"], queue["id"]]
    assert main(("pauses", "list")) == 0
    assert "enrichment" in capsys.readouterr().out
    execution = client.executions.execute("summarise", {"text": "a"})
    assert main(("why", str(execution.execution_id))) == 0
    shown = capsys.readouterr().out
    assert f"has paused the task 'summarise': {REASON}" in shown
    assert "celeriac resume --id" in shown
    assert run("resume", "queue", "enrichment")["id"] == queue["id"]
    assert run("resume", "--id", "last")["id"] == task["id"]
    _pause_a_workflow(client, run, capsys)
    assert main(("resume", "task", "summarise")) == 3
    assert main(("resume", "queue", "gpu")) == 3
    assert "is not paused" in capsys.readouterr().err
    for wrong in (
        ("pause", "queue", "--reason", "x"),
        ("pause", "system", "all", "--reason", "x"),
        ("resume",),
        ("resume", "system", "--id", queue["id"]),
    ):
        assert main(wrong) == 2, wrong
    capsys.readouterr()

    for scope in ("system", "workspace"):
        made = client.pauses.pause(scope, reason=REASON)
        assert client.pauses.get(made.id) == made
        assert [each.id for each in client.pauses.list()] == [made.id]
        assert run("resume", scope)["id"] == str(made.id)
    with pytest.raises(ClientError, match="no pause"):
        client.pauses.resume(queue["id"])


def _pause_a_workflow(
    client: Client, run: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    steps = {"sum": {"task": "summarise", "with": {"text": "a"}}}
    workflow = client.workflows.create("brief", {"steps": steps})
    paused = run("pause", "workflow", "brief", "--reason", REASON)
    assert (paused["workflow_id"], paused["workflow_name"]) == (str(workflow.id), "brief")
    client.workflows.start("brief", {})
    (held,) = [each for each in client.executions.list() if each.workflow_run_id is not None]
    assert (held.status, held.held) == ("pending", "paused")
    assert main(("sitrep",)) in (0, 1)
    assert "Paused: the workflow brief" in capsys.readouterr().out
    assert (run("resume", "workflow", "brief")["id"], paused["scope"]) == (paused["id"], "workflow")
    assert client.executions.get(held.id).held is None
