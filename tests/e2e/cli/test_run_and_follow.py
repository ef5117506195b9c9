"""`run`, `monitor`, `timeline`, `logs` against a running system."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from celeriac.client import Client
from celeriac.domain.agents import LlmAgent
from tests.support.command_line import CommandLine
from tests.support.waiting import wait_until

pytestmark = pytest.mark.usefixtures("up")


def test_run_prints_the_result_alone_on_standard_output(commands: CommandLine) -> None:
    result = commands.run("run", "noop", "--var", "text=grüß dich")
    assert result.code == 0
    assert json.loads(result.out) == {"text": "grüß dich"}
    for event in ("created", "queued", "started", "completed"):
        assert re.search(rf"\d {event}\b", result.err), f"{event} is not told: {result.err}"
    assert "completed · " in result.err.splitlines()[-1]


def test_variables_come_from_everywhere(commands: CommandLine, tmp_path: Path) -> None:
    (tmp_path / "vars.json").write_text('{"a": 1}')
    done = commands.run(
        "run", "noop", "--vars-file", str(tmp_path / "vars.json"), "--input", "text=-",
        "--var", "flag:=true", stdin="piped",
    )  # fmt: skip
    assert json.loads(done.out) == {"a": 1, "text": "piped", "flag": True}


def test_a_file_of_json_lines_is_a_batch(
    commands: CommandLine, client: Client, tmp_path: Path
) -> None:
    lines = tmp_path / "items.jsonl"
    lines.write_text('{"n": 1}\n{"n": 2}\n')
    done = commands.run("run", "noop", "--vars-file", str(lines), "--var", "all=x")
    assert done.code == 0, done.err
    ids = done.out.split()
    results = [client.executions.wait(execution_id).result for execution_id in ids]
    assert results == [{"n": 1, "all": "x"}, {"n": 2, "all": "x"}]
    assert commands.run("run", "noop", "--vars-file", str(lines), "--sync").code == 2


def test_a_queue_that_no_worker_serves_is_warned_of(commands: CommandLine, client: Client) -> None:
    waits = commands.run("run", "noop", "--queue", "nowhere", "--detach")
    assert waits.code == 0
    assert "warning: No live worker listens to the queue nowhere." in waits.err
    client.executions.cancel(waits.out.strip())


def test_run_sync_is_one_request(commands: CommandLine) -> None:
    done = commands.ask("run", "noop", "--sync", "--var", "n:=1")
    assert (done["status"], done["execution_mode"], done["result"]) == (
        "completed",
        "sync",
        {"n": 1},
    )


def test_a_failed_execution_exits_with_1_and_its_own_code(
    commands: CommandLine, tmp_path: Path
) -> None:
    result = commands.run("run", "refuse", "--var", f"diary={tmp_path / 'diary'}")
    assert result.code == 1
    assert result.out == ""
    assert "error: never [agent_failed_permanently]" in result.err
    assert "celeriac executions show " in result.err


def test_an_exception_is_shown_with_its_type_and_the_users_own_frames(
    commands: CommandLine, client: Client
) -> None:
    client.tasks.create("clumsy", "hold", {"retry": {"max_retries": 0}})
    failed = commands.run("run", "clumsy", "--var", "gate=x", "--var", "diary=/nowhere/x")
    assert "error: FileNotFoundError: [Errno 2]" in failed.err
    execution = failed.err.rpartition("celeriac executions show ")[2].split("`")[0]
    for command in (("executions", "show"), ("timeline",)):
        shown = commands.run(*command, execution).out
        assert "fleet_agents.py" in shown
        assert "FileNotFoundError: " in shown
        assert "celeriac/agents/" not in shown.replace("\n", ""), command
    assert "agent_failed: FileNotFoundError: " in commands.run("executions", "list").out


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("run", "nosuch"), 3, "error: There is no task nosuch. [not_found]"),
        (("run", "noop", "--var", "x"), 2, "error: --var 'x' is not a variable. [usage]"),
        (("run", "noop", "--var", "n:=x"), 2, "this is not JSON"),
        (("run", "noop", "--priority", "urgent"), 2, "priority"),
        (("run", "noop", "--api-key", "cel_bad_key"), 4, "[unauthenticated]"),
        (("run", "noop", "--api-url", "http://127.0.0.1:1", "--api-key", "k"), 5, "[unreachable]"),
        (("monitor", "no-id"), 2, "is not the id of an execution"),
        (("monitor", "0199f3a2-1c5e-7d30-9a64-0b8f6b1d2c11"), 3, "[not_found]"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_bad_input_is_one_line_and_an_exit_code(
    commands: CommandLine, arguments: tuple[str, ...], code: int, words: str
) -> None:
    result = commands.run(*arguments)
    assert result.code == code, result.err
    assert words in result.err.splitlines()[0]
    assert "Traceback" not in result.err


def test_debug_shows_the_traceback(commands: CommandLine) -> None:
    result = commands.run("--debug", "run", "nosuch")
    assert result.code == 3
    assert "Traceback" in result.err


def test_an_inactive_task_says_how_to_switch_it_on(commands: CommandLine, client: Client) -> None:
    commands.ask("tasks", "create", "asleep", "--agent", "noop", "--inactive")
    result = commands.run("run", "asleep")
    assert result.code == 1
    assert "celeriac tasks activate" in result.err
    commands.ask("tasks", "activate", "asleep")
    assert client.tasks.get("asleep").active


@pytest.mark.requirement("A18")
def test_monitor_follows_an_execution_to_its_end(commands: CommandLine, client: Client) -> None:
    execution_id = str(client.executions.execute("nap", {"seconds": 1}).execution_id)
    result = commands.run("monitor", execution_id)
    assert result.code == 0
    assert json.loads(result.out)["attempt"] == 1
    assert re.search(r"\d completed\b", result.err)
    again = commands.run("monitor", execution_id)
    assert again.code == 0, "what has ended is shown as it ended"
    assert json.loads(again.out)["attempt"] == 1


@pytest.mark.requirement("A18")
def test_monitor_draws_a_live_view_on_a_terminal(
    commands: CommandLine, client: Client, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    variables = {"gate": str(gate), "diary": str(tmp_path / "diary")}
    execution_id = str(client.executions.execute("hold", variables).execution_id)
    drawn = commands.on_terminal("monitor", execution_id, sight="running", then=gate.touch)
    assert f"hold · {execution_id}" in drawn
    for part in ("running", "completed", "attempt 1", "worker celeriac-", "━━━", "execution."):
        assert part in drawn, f"{part} is not shown"


def test_a_wait_can_be_bounded_and_leaves_the_execution_alone(
    commands: CommandLine, client: Client, tmp_path: Path
) -> None:
    gate, diary = tmp_path / "gate", tmp_path / "diary"
    arguments = ("--var", f"gate={gate}", "--var", f"diary={diary}")
    result = commands.run("run", "hold", *arguments, "--timeout", "1")
    assert result.code == 1
    assert "[wait_timeout]" in result.err
    (running,) = client.executions.list(status="running", task="hold")
    gate.touch()
    assert client.executions.wait(running.id).status == "completed"


@pytest.mark.requirement("A18")
def test_timeline_merges_the_logs_of_all_and_the_events(
    commands: CommandLine, client: Client
) -> None:
    done = client.executions.run("noop").id
    entries: list[dict[str, Any]] = []

    def sources() -> set[str]:
        entries[:] = commands.ask("timeline", str(done))
        return {entry["source"] for entry in entries}

    wait_until(lambda: sources() == {"api", "worker", "events"}, "API and worker have logged")
    assert [entry["at"] for entry in entries] == sorted(entry["at"] for entry in entries)
    assert {"execution.created", "execution.picked_up", "completed"} <= {
        entry["event"] for entry in entries
    }
    shown = commands.run("timeline", str(done))
    assert shown.code == 0
    assert len(shown.out.splitlines()) >= len(entries)


@pytest.mark.requirement("A18")
def test_logs_shows_the_lines_of_all_services(commands: CommandLine, client: Client) -> None:
    done = client.executions.run("noop").id
    mine = ("logs", "-n", "1000", "--execution", str(done), "--json")

    def services() -> set[str]:
        lines = commands.run(*mine).out.splitlines()
        return {json.loads(line)["service"] for line in lines}

    wait_until(lambda: services() == {"api", "worker"}, "both have logged it")
    assert "execution.completed" in commands.run("logs", "-n", "1000").out
    of_one = commands.run("logs", str(done), "--follow", "--json").out.splitlines()
    assert [json.loads(each)["event"] for each in of_one] == [
        json.loads(each)["event"]
        for each in commands.run("logs", str(done), "--json").out.splitlines()
    ]
    assert "execution.completed" in of_one[-1] + of_one[-2]


@pytest.mark.requirement("A18")
def test_logs_follows_what_is_written_from_now_on(commands: CommandLine, client: Client) -> None:
    following = commands.start("following", "logs", "--follow", "-n", "0", "--json")
    ids: list[str] = []

    def logged() -> bool:
        # it may not yet follow when the first of them runs, and shows each a moment after its end
        ids.append(str(client.executions.run("noop").id))
        shown = following.output()
        return any(known in shown for known in ids)

    try:
        wait_until(logged, "the follower shows a new execution", within=60)
    finally:
        following.close()


def test_a_result_that_the_token_limit_has_cut_off_comes_with_a_warning(
    commands: CommandLine, client: Client
) -> None:
    client.agents.create("short", LlmAgent(model="scripted/model"))
    client.tasks.create("cut", "short", {"prompt": "cut {{ text }}"})

    result = commands.run("run", "cut", "--var", "text=it")

    assert (result.code, result.out.strip()) == (0, "Once upon a")
    assert "Warning: the result is cut off" in result.err
    assert re.search(r"\d completed +cut off by the model's token limit", result.err)
    (last,) = client.executions.list(task="cut")
    assert last.truncated is True
    assert "cut off" in commands.run("executions", "show", str(last.id)).out
