"""Crews from the command line, on a real worker: one with a real model, one that is cancelled."""

import json
from pathlib import Path

import psutil
import pytest

from celeriac import wire
from celeriac.client import Client
from tests.support.command_line import CommandLine
from tests.support.crews import crew, require_crewai, task
from tests.support.local_model import IS_INSTALLED
from tests.support.model_server import ModelServer
from tests.support.programs import REPOSITORY
from tests.support.waiting import wait_until

EXAMPLE = REPOSITORY / "examples" / "crews" / "newsroom.json"

pytestmark = pytest.mark.usefixtures("crewai", "up")


@pytest.fixture(scope="module")
def crewai() -> None:
    """CrewAI's environment is there."""
    require_crewai()


def make(commands: CommandLine, client: Client, name: str, graph: Path) -> None:
    commands.ask("agents", "create", name, "--crew", str(graph))
    client.tasks.create(name, name, {"limits": {"soft_seconds": 90, "hard_seconds": 100}})


@pytest.mark.skipif(not IS_INSTALLED, reason="the extra local-model is not installed")
@pytest.mark.requirement("C2", "C3", "C6")
def test_the_example_runs_on_the_local_model(commands: CommandLine, client: Client) -> None:
    make(commands, client, "newsroom", EXAMPLE)
    refused = commands.run("run", "newsroom")
    assert (refused.code, "'topic' is undefined" in refused.err) == (2, True), refused.err

    done = commands.ask("run", "newsroom", "--var", "topic=celeriac")

    assert done["status"] == "completed", done
    assert len(done["result"]) > 20
    assert done["progress"] == {"done": 2, "total": 2, "note": "done"}
    assert done["model_call_count"] >= 2
    assert done["cost"] == "0.00"
    outputs = [
        each.data["data"]["output"]
        for each in client.executions.events(done["id"])
        if each.data.get("name") == "crew_task_completed"
    ]
    assert len(outputs) == 2
    assert outputs[-1] == done["result"]


@pytest.mark.requirement("C5", "C6")
def test_a_running_crew_is_cancelled(
    commands: CommandLine, client: Client, scripted: ModelServer, tmp_path: Path
) -> None:
    graph = tmp_path / "waiting.json"
    graph.write_text(json.dumps(crew(task("first", "silent"))).replace("test/", "scripted/"))
    make(commands, client, "waiting", graph)
    execution = str(client.executions.execute("waiting").execution_id)
    wait_until(lambda: scripted.asked("Current"), "the crew asks its model")
    assert crews_of(execution), "the crew runs in a process of its own"
    wait_until(
        lambda: (
            client.executions.get(execution).progress
            == wire.Progress(done=0, total=1, note="first: planner")
        ),
        "the progress names task and agent",
    )

    commands.run("executions", "cancel", execution)

    wait_until(
        lambda: client.executions.get(execution).status == "cancelled", "the crew is cancelled"
    )
    assert client.executions.get(execution).cancel_requested_by == "admin"
    assert not crews_of(execution), "nothing of it is left"
    wait_until(lambda: "Current" in scripted.left, "the model is hung up on")


@pytest.mark.requirement("C6")
def test_the_error_of_a_crew_is_kept_with_its_node(
    commands: CommandLine, client: Client, tmp_path: Path
) -> None:
    graph = tmp_path / "refused.json"
    refused = crew(task("first", "plan"), task("second", "unauthorized", "first", agent="writer"))
    graph.write_text(json.dumps(refused).replace("test/", "scripted/"))
    make(commands, client, "refused", graph)

    result = commands.run("run", "refused", "--json")

    assert result.code == 1
    (listed,) = commands.ask("executions", "list", "--task", "refused")
    done = commands.ask("executions", "show", listed["id"])
    assert (done["status"], done["error_code"]) == ("failed", "provider_refused")
    details = done["error_details"]
    assert (details["node"], details["agent"]) == ("tasks.second", "writer")
    assert details["type"]
    assert "Traceback" in details["traceback"]
    assert done["progress"]["done"] == 1


def crews_of(execution: str) -> list[psutil.Process]:
    """The processes that stand in an execution's directory."""
    found = []
    for process in psutil.process_iter():
        try:
            if execution in process.cwd():
                found.append(process)
        except (psutil.AccessDenied, psutil.NoSuchProcess):
            continue
    return found
