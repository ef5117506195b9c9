"""`executions cancel` and `retry` by filter, and `executions list --follow`."""

import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.command_line import CommandLine
from tests.support.programs import Program
from tests.support.waiting import wait_until

pytestmark = pytest.mark.usefixtures("up")


@pytest.fixture
def idle(commands: CommandLine, request: pytest.FixtureRequest) -> Iterator[str]:
    """A task whose executions wait in a queue that no worker serves."""
    name = f"idle-{abs(hash(request.node.name)) % 10**9}"
    commands.ask("tasks", "create", name, "--agent", "noop", "--set", "queue=nowhere")
    yield name
    commands.run("executions", "cancel", "--task", name, "--yes")


def _run(commands: CommandLine, task: str) -> str:
    return str(commands.ask("run", task, "--detach")["execution_id"])


def test_what_matches_is_counted_then_cancelled(commands: CommandLine, idle: str) -> None:
    ids = [_run(commands, idle) for _ in range(3)]
    counted = commands.run("executions", "cancel", "--task", idle, "--since", "1h", "--dry-run")
    assert (counted.code, counted.out) == (0, "Cancel: 3 executions.\n")
    refused = commands.run("executions", "cancel", "--task", idle)
    assert refused.code == 2, "nobody can be asked"
    assert "3 executions match; nothing was changed." in refused.err
    assert "--yes" in refused.err
    one = commands.run("executions", "cancel", "--task", idle, "--limit", "1", "--yes")
    assert (one.code, one.out.split()) == (0, [ids[2]])
    assert "Cancelled: 1 execution;" in one.err
    rest = commands.ask("executions", "cancel", "--task", idle, "--status", "queued", "--yes")
    assert (rest["affected"], rest["execution_ids"]) == (2, [ids[1], ids[0]])
    nothing = commands.run("executions", "cancel", "--task", idle, "--until", "1d")
    assert (nothing.code, nothing.out) == (0, "")
    assert "No execution matches." in nothing.err


def test_on_a_terminal_one_is_asked_before(commands: CommandLine, idle: str) -> None:
    cancelled = _run(commands, idle)
    drawn = commands.talk(
        "executions", "cancel", "--task", idle, lines=[("Cancel 1 execution? [y/N]", "n")]
    )
    assert cancelled not in drawn
    drawn = commands.talk(
        "executions", "cancel", "--task", idle, lines=[("Cancel 1 execution? [y/N]", "y")]
    )
    assert cancelled in drawn
    assert commands.ask("executions", "show", cancelled)["status"] == "cancelled"


def test_all_that_failed_are_run_again(commands: CommandLine, tmp_path: Path) -> None:
    commands.ask("tasks", "create", "weak", "--agent", "refuse", "--set", "retry.max_retries:=0")
    diary = f"diary={tmp_path / 'diary'}"
    for _ in range(2):
        assert commands.run("run", "weak", "--var", diary).code == 1
    wanted = ("--task", "weak", "--error", "agent_failed_permanently", "--since", "1h")
    counted = commands.ask("executions", "retry", *wanted, "--dry-run")
    assert (counted["dry_run"], counted["remaining"]) == (True, 2)
    key = ("--idempotency-key", "night", "--yes")
    since = commands.ask("executions", "list", "--task", "weak")[-1]["created_at"]
    fixed = ("--task", "weak", "--since", since)
    done = commands.run("executions", "retry", *fixed, *key)
    assert done.code == 0, done.err
    assert "Retried: 2 executions." in done.err
    ids = done.out.split()
    assert len(ids) == 2
    again = commands.run("executions", "retry", *fixed, *key)
    assert again.out.split() == ids, "the same key makes nothing anew"
    for each in ids:
        assert commands.run("monitor", each).code == 1
        assert commands.ask("executions", "show", each)["origin_id"]


def test_what_could_not_be_run_again_is_named(commands: CommandLine, idle: str) -> None:
    execution = _run(commands, idle)
    commands.ask("executions", "cancel", execution)
    commands.ask("tasks", "deactivate", idle)
    done = commands.run("executions", "retry", "--task", idle, "--status", "cancelled", "--yes")
    assert (done.code, done.out) == (1, "")
    assert f"skipped {execution}: The task '{idle}' is inactive" in done.err
    assert "error: 1 execution could not be retried. [skipped]" in done.err


@contextmanager
def _following(commands: CommandLine, name: str, *arguments: str) -> Iterator[Program]:
    program = commands.start(name, "executions", "list", "--follow", *arguments)
    try:
        yield program
    finally:
        if program.exit_code is None:
            program.kill()


def test_a_list_is_followed_line_by_line_until_ctrl_c(commands: CommandLine, idle: str) -> None:
    first = _run(commands, idle)
    with _following(commands, "lines", "--task", idle) as following:

        def lines() -> list[str]:
            return following.log.read_text().splitlines()

        wait_until(lambda: len(lines()) == 1, "what is there is shown")
        second = _run(commands, idle)
        wait_until(lambda: len(lines()) == 2, "a new one is shown")
        commands.ask("executions", "cancel", first)
        wait_until(lambda: len(lines()) == 3, "a change is shown")
        following.signal(signal.SIGINT)
        assert following.wait_end() == 130
    shown = [line.split()[2:5] for line in lines()]
    assert shown == [
        [first, "queued", idle],
        [second, "queued", idle],
        [first, "cancelled", idle],
    ]
    assert "waits for a worker, for " in lines()[0]


def test_a_followed_list_is_json_lines_with_json(commands: CommandLine, idle: str) -> None:
    first, second = _run(commands, idle), _run(commands, idle)
    commands.ask("executions", "cancel", first)
    wanted = ("--task", idle, "--status", "cancelled", "--json")
    with _following(commands, "json", *wanted) as following:

        def lines() -> list[str]:
            return following.log.read_text().splitlines()

        wait_until(lambda: len(lines()) == 1, "what is there is written")
        commands.ask("executions", "cancel", second)
        wait_until(lambda: len(lines()) == 2, "the change is written")
        following.signal(signal.SIGINT)
        assert following.wait_end() == 130
    written = list(map(json.loads, lines()))
    assert [(each["id"], each["status"]) for each in written] == [
        (first, "cancelled"),
        (second, "cancelled"),
    ]
    assert "variables" not in written[0]


def test_lists_say_what_is_waited_for_and_how_long(commands: CommandLine, idle: str) -> None:
    _run(commands, idle)
    later = commands.ask("run", idle, "--delay", "600", "--detach")["execution_id"]
    shown = commands.run("executions", "list", "--task", idle, "--agent", "noop").out
    assert "waits for a worker, for " in shown
    assert "waits for its time, " in shown
    found = commands.ask("executions", "show", later)
    assert (found["status"], found["waiting_since"]) == ("pending", None)
