"""`celeriac workflows` and `celeriac workflow-runs` with real processes, on the shared system."""

import json
import signal
from pathlib import Path
from typing import Any

import pytest

from celeriac.client import Client
from celeriac.domain.agents import PythonAgent
from tests.e2e.cli.conftest import AGENTS
from tests.support.command_line import CommandLine
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.usefixtures("up"), pytest.mark.requirement("E3")]

BROKEN = """\
workflow: flow-broken
input: {url: string}
steps:
  fetch:
    task: fetch-page
    with:
      url: "${{ input.ulr }}"
    retrys: 3
"""
MAP = """\
workflow: flow-map
input: {numbers: array, cured: string}
steps:
  each:
    task: flow-pick
    map: input.numbers
    with: {value: "${{ item }}", bad: [2], cured: "${{ input.cured }}"}
    # its failure cancels what has not ended: the bad one is the last
    parallel: 1
    on_failure: continue
    max_failures: 0
returns: "${{ steps.each.results }}"
"""
HELD = """\
workflow: flow-held
input: {diary: string, gate: string}
steps:
  held: {task: hold, with: {diary: "${{ input.diary }}", gate: "${{ input.gate }}"}}
"""
UNDONE = """\
workflow: flow-undone
input: {diary: string, gate: string}
steps:
  book:
    task: noop
    with: {diary: "${{ input.diary }}", gate: "${{ input.gate }}"}
    undo: flow-back
  pay: {task: flow-pick, needs: [book], with: {value: 2, bad: [2]}}
"""


@pytest.fixture(scope="module", autouse=True)
def workflows(
    commands: CommandLine, client: Client, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """The tasks and workflows of this module."""
    client.agents.create("flow-pick", PythonAgent(function=f"{AGENTS}:pick"))
    client.agents.create("flow-back", PythonAgent(function=f"{AGENTS}:take_back"))
    client.tasks.create("flow-pick", "flow-pick")
    client.tasks.create("flow-back", "flow-back", {"retry": {"max_retries": 0}})
    directory = tmp_path_factory.mktemp("flows")
    for name, text in (("flow-map", MAP), ("flow-held", HELD), ("flow-undone", UNDONE)):
        file = directory / f"{name}.yaml"
        file.write_text(text)
        assert commands.ask("workflows", "create", name, "--spec", str(file))["version"] == 1


def held(place: Path) -> dict[str, str]:
    """Return the input of a run that waits for the file `gate`."""
    return {"diary": str(place / "diary"), "gate": str(place / "gate")}


def start_held(client: Client, place: Path) -> str:
    """Start a run, and return its id once its step runs."""
    run_id = str(client.workflows.start("flow-held", held(place)).run_id)
    wait_until((place / "diary").exists, "the step runs")
    return run_id


def test_faults_of_a_file_are_shown_without_a_server(commands: CommandLine, tmp_path: Path) -> None:
    file = tmp_path / "broken.yaml"
    file.write_text(BROKEN)
    nowhere = {"CELERIAC_API_URL": "http://127.0.0.1:9", "CELERIAC_API_KEY": "none"}

    shown = commands.run("workflows", "validate", str(file), **nowhere)
    written = commands.run("workflows", "validate", str(file), "--json", **nowhere)

    assert (shown.code, shown.out) == (2, "")
    assert f"{file}:8:5: step fetch, retrys: there is no field retrys: did you mean" in shown.err
    assert (
        f"{file}:7:17: step fetch, with.url: the input has no ulr; did you mean url?" in shown.err
    )
    assert written.code == 2
    assert {each["line"] for each in json.loads(written.out)["faults"]} == {7, 8}


def test_a_failed_map_is_retried_and_forked(
    commands: CommandLine, client: Client, tmp_path: Path
) -> None:
    cured = tmp_path / "cured"
    given = {"numbers": [1, 3, 2], "cured": str(cured)}
    failed = client.workflows.run("flow-map", given, timeout=30)
    assert failed.error_message is not None
    assert "Item 2: 2 is bad" in failed.error_message

    cured.touch()
    again = commands.ask("workflow-runs", "retry", str(failed.id))["run_id"]
    followed = commands.run("workflow-runs", "follow", again, "--items")
    assert followed.code == 0, followed.err
    assert json.loads(followed.out) == [1, 3, 2]
    for index in range(3):
        assert f"each[{index}] completed" in followed.err
    assert len(made(client, again)) == 1
    forked = commands.run(
        "workflow-runs", "fork", again, "--step", "each", "--item", "0", "--follow"
    )
    assert (forked.code, json.loads(forked.out)) == (0, [1, 3, 2]), forked.err
    assert len(made(client, str(next(client.workflow_runs.list(origin_id=again)).id))) == 1
    refused = commands.run("workflow-runs", "retry", again)
    assert refused.code == 1
    assert "The run has completed: there is nothing to retry." in refused.err


def made(client: Client, run_id: str) -> set[Any]:
    """Return the executions of `each` that a run has made, not those that it has taken over."""
    mine = {each.execution_id for each in client.workflow_runs.items(run_id, "each")}
    origin = client.workflow_runs.get(run_id).origin_id
    assert origin is not None
    return mine - {each.execution_id for each in client.workflow_runs.items(origin, "each")}


def test_failed_undo_tasks_are_repeated_once(
    commands: CommandLine, client: Client, tmp_path: Path
) -> None:
    place = tmp_path / "missing"
    failed = client.workflows.run("flow-undone", held(place), timeout=30)
    assert (failed.status, failed.compensation) == ("failed", "compensation_failed")
    followed = commands.run("workflow-runs", "follow", str(failed.id))
    assert "--compensation` runs these again." in followed.err.replace("\n", " ")
    plain = commands.run("workflow-runs", "retry", str(failed.id))
    assert plain.code == 1
    assert "Retry its compensation first." in plain.err

    place.mkdir()
    (place / "gate").touch()
    again = commands.ask("workflow-runs", "retry", str(failed.id), "--compensation")["run_id"]

    ended = client.workflow_runs.wait(again, timeout=30)
    assert (ended.status, ended.compensation) == ("failed", "compensated")
    twice = commands.run("workflow-runs", "retry", str(failed.id), "--compensation")
    assert twice.code == 1
    assert f"is retried by the run {again}" in twice.err


def test_ctrl_c_ends_the_following_and_not_the_run(
    commands: CommandLine, client: Client, tmp_path: Path
) -> None:
    given = [f"--var={name}={value}" for name, value in held(tmp_path).items()]
    following = commands.start("followed-run", "workflows", "run", "flow-held", *given)
    try:
        wait_until(lambda: "held" in following.output(), "it tells of the run")
        wait_until((tmp_path / "diary").exists, "the step runs")
        following.signal(signal.SIGINT)
        assert following.wait_end() == 130
    finally:
        if following.exit_code is None:
            following.kill()

    (running,) = client.workflow_runs.list(workflow="flow-held", status="running")
    assert f"Stopped following; the run {running.id} continues." in following.output()
    (tmp_path / "gate").touch()
    assert client.workflow_runs.wait(running.id, timeout=30).status == "completed"


def test_a_run_is_cancelled_once(commands: CommandLine, client: Client, tmp_path: Path) -> None:
    run_id = start_held(client, tmp_path)
    why = commands.ask("why", run_id)
    (item,) = client.workflow_runs.items(run_id, "held")
    assert (why["run"]["id"], why["steps"][0]["step"]) == (run_id, "held")
    assert why["steps"][0]["execution_id"] == str(item.execution_id)
    assert f"held, execution {item.execution_id}:" in commands.run("why", run_id[-12:]).out
    for wrong in (("executions", "cancel", run_id), ("executions", "show", run_id[-12:])):
        refused = commands.run(*wrong)
        assert refused.code == 3
        assert f"celeriac workflow-runs show {run_id[-12:]}" in refused.err
    refused = commands.run("workflow-runs", "cancel", str(item.execution_id))
    assert f"celeriac executions show {str(item.execution_id)[-12:]}" in refused.err
    assert client.workflow_runs.get(run_id).status == "running"

    asked = commands.run("workflow-runs", "cancel", run_id[-12:])
    assert asked.code == 0, asked.err
    assert client.workflow_runs.wait(run_id, timeout=30).status == "cancelled"

    late = commands.run("workflow-runs", "cancel", run_id)
    followed = commands.run("monitor", run_id)

    assert late.code == 6
    assert "The run had ended already: it is cancelled. [ended_already]" in late.err
    assert followed.code == 1
    assert "cancelled" in followed.err


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("workflow-runs", "list", "--status", "bird"), 2, "status"),
        (("workflow-runs", "list", "--trigger", "bird"), 2, "--trigger"),
        (("workflow-runs", "fork", "last", "--item", "-1"), 2, "--item"),
        (("workflow-runs", "items", "last", "each", "--status", "bird"), 2, "--status"),
        (("workflow-runs", "show", "bird"), 2, "'bird' is not the id of a run of a workflow."),
        (("workflow-runs", "show", "ffffffffffff"), 3, "[not_found]"),
        (("workflows", "run", "flow-map", "--var", "x"), 2, "--var 'x' is not a variable."),
        (("workflows", "run", "flow-map", "--var", "numbers=x"), 2, "doesn't fit the workflow's"),
        (("workflows", "run", "no-such-flow", "--detach"), 3, "[not_found]"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_bad_input_is_an_error_in_words_and_an_exit_code(
    commands: CommandLine, arguments: tuple[str, ...], code: int, words: str
) -> None:
    result = commands.run(*arguments)
    assert result.code == code, result.err
    assert words in result.err
    assert "Traceback" not in result.err
