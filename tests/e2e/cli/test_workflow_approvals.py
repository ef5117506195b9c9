"""A workflow that asks, as docs/workflows.md has it, with real processes and the command line."""

from pathlib import Path
from typing import Any

import pytest

from celeriac.client import Client
from celeriac.kit.yaml_text import read_text
from tests.support.command_line import CommandLine
from tests.support.docs import examples
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.usefixtures("up"), pytest.mark.requirement("E3")]

TASKS = ("check-text", "publish-texts", "write-note")
(DOCUMENT,) = [
    block.text
    for block in examples()
    if block.page == "docs/workflows.md" and block.text.startswith("workflow: publish\n")
]


@pytest.fixture(scope="module")
def workflow(commands: CommandLine, client: Client, tmp_path_factory: Any) -> str:
    """The workflow of the page, whose tasks return their variables."""
    for name in TASKS:
        client.tasks.create(name, "noop")
    file: Path = tmp_path_factory.mktemp("flows") / "publish.yaml"
    file.write_text(DOCUMENT, encoding="utf-8")
    return str(commands.ask("workflows", "create", "publish", "--spec", str(file))["name"])


def started(commands: CommandLine, client: Client, workflow: str) -> str:
    """Start a run; return its id once it asks."""
    words = ("workflows", "run", workflow, "--var", 'texts:=["a", "b"]', "--detach")
    run_id = str(commands.ask(*words)["run_id"])
    wait_until(lambda: list(client.approvals.list(workflow_run_id=run_id)), "the run asks")
    return run_id


def results(client: Client, run_id: str, step: str) -> list[Any]:
    return [each.result for each in client.workflow_runs.items(run_id, step, results=True)]


def test_map_condition_approval_and_what_follows(
    commands: CommandLine, client: Client, workflow: str
) -> None:
    run_id = started(commands, client, workflow)

    (listed,) = commands.ask("approvals", "list", "--run", "last")
    shown = commands.run("workflow-runs", "show", "last").out
    command = f"celeriac approvals answer {listed['id'][-12:]} --approve"
    assert shown.index("Publish these texts?") < shown.index(command)
    assert listed["arguments"] == {"texts": ["a", "b"], "checks": [{"text": "a"}, {"text": "b"}]}
    assert (listed["workflow_run_id"], listed["step"]) == (run_id, "ok")
    done = commands.ask("approvals", "answer", "last", "--approve", "--note", "Fine by me")
    assert done["status"] == "answered"
    run = client.workflow_runs.wait(run_id, timeout=30)

    assert (run.status, run.result) == ("completed", {"texts": ["a", "b"]})
    (note,) = results(client, run_id, "note")
    assert (note["status"], note["answer"]["note"], note["answer"]["approved"]) == (
        "completed", "Fine by me", True,
    )  # fmt: skip


def test_a_denial_skips_what_needs_it(commands: CommandLine, client: Client, workflow: str) -> None:
    run_id = started(commands, client, workflow)

    denied = commands.run("approvals", "answer", "last", "--deny", "--note", "Not yet.")
    assert denied.out.startswith("denied · "), denied.err
    run = client.workflow_runs.wait(run_id, timeout=30)

    assert run.status == "completed"
    assert {step.step: step.status.value for step in run.steps} == {
        "check": "completed", "ok": "denied", "publish": "skipped", "note": "completed",
    }  # fmt: skip
    (note,) = results(client, run_id, "note")
    assert (note["status"], note["answer"]["note"]) == ("denied", "Not yet.")


@pytest.mark.usefixtures("workflow")
def test_the_keeper_expires_the_question_of_a_run(client: Client) -> None:
    spec: Any = read_text(DOCUMENT, "publish.yaml").value
    del spec["workflow"]
    spec["steps"]["ok"] |= {"expires": 1, "on_expiry": "fail"}
    client.workflows.create("publish-soon", spec)

    run_id = client.workflows.start("publish-soon", {"texts": ["a", "b"]}).run_id
    run = client.workflow_runs.wait(run_id, timeout=30)

    assert (run.status, run.error_code, run.error_step) == ("failed", "approval_expired", "ok")
