"""`executions cancel` and `retry` by filter, and `executions list --follow`."""

import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from celeriac.client import Client
from tests.support.command_line import CommandLine
from tests.support.programs import Program
from tests.support.waiting import wait_until

pytestmark = pytest.mark.usefixtures("up")


@pytest.fixture
def idle(client: Client, request: pytest.FixtureRequest) -> Iterator[str]:
    """A task whose executions wait in a queue that no worker serves."""
    name = f"idle-{abs(hash(request.node.name)) % 10**9}"
    client.tasks.create(name, "noop", {"queue": "nowhere"})
    yield name
    client.executions.cancel_many(task=name)


def _run(client: Client, task: str) -> str:
    return str(client.executions.execute(task).execution_id)


def test_what_matches_is_counted_then_cancelled(
    commands: CommandLine, client: Client, idle: str
) -> None:
    ids = [_run(client, idle) for _ in range(3)]
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


def test_on_a_terminal_one_is_asked_before(
    commands: CommandLine, client: Client, idle: str
) -> None:
    cancelled = _run(client, idle)
    drawn = commands.talk(
        "executions", "cancel", "--task", idle, lines=[("Cancel 1 execution? [y/N]", "n")]
    )
    assert cancelled not in drawn
    drawn = commands.talk(
        "executions", "cancel", "--task", idle, lines=[("Cancel 1 execution? [y/N]", "y")]
    )
    assert cancelled in drawn
    assert client.executions.get(cancelled).status == "cancelled"


@pytest.mark.requirement("F19")
def test_a_job_asks_and_changes_exactly_what_it_has_shown(
    commands: CommandLine, client: Client, idle: str
) -> None:
    shown = _run(client, idle)
    preview = commands.run("bulk", "cancel", "--task", idle, "--dry-run")
    assert shown in preview.err
    late = _run(client, idle)
    done = commands.ask("bulk", "start", preview.out.strip(), "--wait")
    assert (done["status"], done["total"], done["done"]) == ("completed", 1, 1)
    assert [client.executions.get(each).status for each in (shown, late)] == ["cancelled", "queued"]
    asked = ("bulk", "cancel", "--task", idle)
    refused = commands.run(*asked)
    assert (refused.code, client.executions.get(late).status) == (2, "queued")
    assert "It would change 1 execution; nothing was changed." in refused.err
    drawn = commands.talk(*asked, lines=[("cancel 1 execution? [y/N]", "n")])
    assert "Nothing was changed." in drawn
    client.executions.execute_batch(idle, [{}] * 1_000)
    question = "cancel 1,001 executions? Type their number"
    commands.talk(*asked, lines=[(question, "1000")])
    assert client.executions.get(late).status == "queued"
    commands.talk(*asked, "--wait", lines=[(question, "1001")])
    job = next(client.bulk_jobs.list())
    assert (job.status, job.done) == ("completed", 1_001)
    items = commands.ask("bulk", "items", "last", "--outcome", "done", "--limit", "2000")
    assert len(items) == 1_001


def test_all_that_failed_are_run_again(
    commands: CommandLine, client: Client, tmp_path: Path
) -> None:
    client.tasks.create("weak", "refuse", {"retry": {"max_retries": 0}})
    diary = {"diary": str(tmp_path / "diary")}
    failed = [client.executions.run("weak", diary) for _ in range(2)]
    assert {each.error_code for each in failed} == {"agent_failed_permanently"}
    wanted = ("--task", "weak", "--error", "agent_failed_permanently", "--since", "1h")
    counted = commands.ask("executions", "retry", *wanted, "--dry-run")
    assert (counted["dry_run"], counted["remaining"]) == (True, 2)
    key = ("--idempotency-key", "night", "--yes")
    fixed = ("--task", "weak", "--since", failed[0].created_at.isoformat())
    done = commands.run("executions", "retry", *fixed, *key)
    assert done.code == 0, done.err
    assert "Retried: 2 executions." in done.err
    ids = done.out.split()
    assert len(ids) == 2
    again = commands.run("executions", "retry", *fixed, *key)
    assert again.out.split() == ids, "the same key makes nothing anew"
    ended = [client.executions.wait(each) for each in ids]
    assert {each.status for each in ended} == {"failed"}
    assert {each.origin_id for each in ended} == {each.id for each in failed}


def test_what_could_not_be_run_again_is_named(
    commands: CommandLine, client: Client, idle: str
) -> None:
    execution = _run(client, idle)
    client.executions.cancel(execution)
    client.tasks.change(idle, active=False)
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


def test_a_list_is_followed_line_by_line_until_ctrl_c(
    commands: CommandLine, client: Client, idle: str
) -> None:
    first = _run(client, idle)
    with _following(commands, "lines", "--task", idle) as following:

        def lines() -> list[str]:
            return following.log.read_text().splitlines()

        wait_until(lambda: len(lines()) == 1, "what is there is shown")
        second = _run(client, idle)
        wait_until(lambda: len(lines()) == 2, "a new one is shown")
        client.executions.cancel(first)
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


def test_a_followed_list_is_json_lines_with_json(
    commands: CommandLine, client: Client, idle: str
) -> None:
    first, second = _run(client, idle), _run(client, idle)
    client.executions.cancel(first)
    wanted = ("--task", idle, "--status", "cancelled", "--json")
    with _following(commands, "json", *wanted) as following:

        def lines() -> list[str]:
            return following.log.read_text().splitlines()

        wait_until(lambda: len(lines()) == 1, "what is there is written")
        client.executions.cancel(second)
        wait_until(lambda: len(lines()) == 2, "the change is written")
        following.signal(signal.SIGINT)
        assert following.wait_end() == 130
    written = list(map(json.loads, lines()))
    assert [(each["id"], each["status"]) for each in written] == [
        (first, "cancelled"),
        (second, "cancelled"),
    ]
    assert "variables" not in written[0]


def test_lists_say_what_is_waited_for_and_how_long(
    commands: CommandLine, client: Client, idle: str
) -> None:
    _run(client, idle)
    later = client.executions.execute(idle, delay_seconds=600).execution_id
    shown = commands.run("executions", "list", "--task", idle, "--agent", "noop").out
    assert "waits for a worker, for " in shown
    assert "waits for its time, " in shown
    found = client.executions.get(later)
    assert (found.status, found.waiting_since) == ("pending", None)
