"""`tasks`, `agents`, `executions`, `keys` and `doctor` against a running system."""

from pathlib import Path

import pytest

from celeriac.client import Client
from celeriac.domain.agents import PythonAgent
from tests.support.command_line import CommandLine
from tests.support.waiting import wait_until

pytestmark = pytest.mark.usefixtures("up")


def test_agents_are_made_shown_and_changed(commands: CommandLine) -> None:
    made = commands.ask(
        "agents", "create", "writer", "--model", "local/smollm2",
        "--instructions", "Be brief.", "--set", "temperature:=0",
    )  # fmt: skip
    assert made["spec"]["runner"] == "llm"
    assert (made["spec"]["instructions"], made["spec"]["temperature"]) == ("Be brief.", 0)
    changed = commands.ask("agents", "update", "writer", "--set", "max_output_tokens:=50")
    assert changed["version"] == 2
    assert changed["spec"]["instructions"] == "Be brief.", "what is not given stays"
    assert commands.ask("agents", "show", "writer") == changed
    assert "writer" in {agent["name"] for agent in commands.ask("agents", "list")}
    assert "local/smollm2" in commands.run("agents", "list").out


def test_agents_and_tasks_are_deleted(commands: CommandLine, client: Client) -> None:
    client.agents.create("typo", PythonAgent(function="tests.support.fleet_agents:noop"))
    client.tasks.create("typo", "typo")
    client.executions.execute("typo", delay_seconds=600)
    kept = commands.run("tasks", "delete", "typo")
    assert (kept.code, "[conflict]" in kept.err) == (1, True)
    assert "typo" in commands.run("agents", "delete", "typo").err, "it names the task"
    gone = commands.run("tasks", "delete", "typo", "--cancel")
    assert (gone.code, gone.out) == (0, "deleted · task typo\n"), gone.err
    assert commands.ask("agents", "delete", "typo") == {"agent": "typo", "deleted": True}
    assert commands.run("tasks", "show", "typo").code == 3


def test_an_agent_may_be_a_program(commands: CommandLine) -> None:
    made = commands.ask(
        "agents", "create", "counter", "--command", "word-count", "--set", 'arguments:=["-l"]'
    )
    assert made["spec"]["runner"] == "command"
    assert (made["spec"]["command"], made["spec"]["arguments"]) == ("word-count", ["-l"])
    assert "word-count" in commands.run("agents", "list").out


def test_an_agent_of_no_kind_is_refused(commands: CommandLine) -> None:
    result = commands.run("agents", "create", "nobody")
    assert result.code == 2
    assert "--model" in result.err
    both = commands.run("agents", "create", "nobody", "--model", "a/b", "--function", "a:b")
    assert both.code == 2


def test_tasks_are_made_shown_and_changed(commands: CommandLine, tmp_path: Path) -> None:
    prompt = tmp_path / "prompt.txt"
    prompt.write_text("Say {{ word }}.")
    made = commands.ask(
        "tasks", "create", "say", "--agent", "noop", "--prompt-file", str(prompt),
        "--variables-schema", '{"type": "object", "required": ["word"]}',
        "--set", "limits.hard_seconds:=700", "--set", "priority=high", "--description", "Says.",
    )  # fmt: skip
    assert made["spec"]["prompt"] == "Say {{ word }}."
    assert made["spec"]["limits"] == {"soft_seconds": 540, "hard_seconds": 700, "memory_mb": 1024}
    assert made["spec"]["priority"] == "high"
    refused = commands.run("run", "say")
    assert refused.code == 2
    assert "[variables_invalid]" in refused.err
    changed = commands.ask("tasks", "update", "say", "--set", "priority=low")
    assert (changed["version"], changed["spec"]["prompt"]) == (2, "Say {{ word }}.")
    assert not commands.ask("tasks", "deactivate", "say")["active"]
    assert "say" in {task["name"] for task in commands.ask("tasks", "list", "--inactive")}
    assert commands.run("tasks", "show", "say").out.splitlines()[0].split() == ["name", "say"]


def test_a_wrong_field_is_named(commands: CommandLine) -> None:
    result = commands.run("tasks", "create", "bad", "--agent", "noop", "--set", "limits.hard:=1")
    assert result.code == 2
    assert "spec.limits.hard" in result.err


def test_executions_are_listed_shown_and_repeated(commands: CommandLine, client: Client) -> None:
    done = str(client.executions.run("noop", {"n": 7}).id)
    assert commands.ask("executions", "result", done) == {"n": 7}
    assert commands.ask("executions", "show", done)["status"] == "completed"
    events = commands.ask("executions", "events", done)
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    assert commands.run("executions", "events", done).out.count("\n") == len(events)
    assert "# noop" in commands.run("executions", "report", done).out
    assert "<!doctype html>" in commands.run("executions", "report", done, "--html").out
    again = commands.ask("executions", "retry", done, "--wait")
    assert (again["origin_id"], again["result"]) == (done, {"n": 7})
    listed = commands.ask("executions", "list", "--task", "noop", "--limit", "2")
    assert [each["id"] for each in listed] == [again["id"], done]


def test_a_running_execution_is_cancelled(
    commands: CommandLine, client: Client, tmp_path: Path
) -> None:
    variables = {"gate": str(tmp_path / "gate"), "diary": str(tmp_path / "diary")}
    execution_id = str(client.executions.execute("hold", variables).execution_id)
    no_result = commands.run("executions", "result", execution_id)
    assert no_result.code == 1
    assert "it has no result" in no_result.err
    assert commands.run("executions", "cancel", execution_id).code == 0
    result = commands.run("monitor", execution_id)
    assert result.code == 1
    assert "error: The execution was cancelled by admin. [cancelled]" in result.err
    again = commands.run("executions", "cancel", execution_id, "--json")
    assert (again.code, again.value["status"]) == (6, "cancelled")
    assert "error: The execution had ended already: it is cancelled. [ended_already]" in again.err


def test_keys_are_made_used_and_revoked(commands: CommandLine) -> None:
    made = commands.ask("keys", "create", "ci", "--role", "viewer")
    assert commands.run("tasks", "list", "--api-key", made["token"]).code == 0
    forbidden = commands.run("run", "noop", "--api-key", made["token"])
    assert forbidden.code == 4
    assert "[forbidden]" in forbidden.err
    listed = commands.run("keys", "list")
    assert made["prefix"] in listed.out
    assert made["token"] not in listed.out
    assert commands.ask("keys", "revoke", made["id"])["revoked"]
    assert commands.run("tasks", "list", "--api-key", made["token"]).code == 4


def test_doctor_finds_everything_well(commands: CommandLine) -> None:
    found = commands.ask("doctor")
    assert found["ok"]
    levels = {finding["subject"]: finding["level"] for finding in found["findings"]}
    for subject in ("Python", "packages", "home", "disk", "PostgreSQL", "schema", "clock",
                    "Redis", "broker", "workers", "API", "API key"):  # fmt: skip
        assert levels[subject] == "ok", found
    shown = commands.run("doctor")
    assert shown.code == 0
    assert shown.out.count("\nok ") >= 11


def test_users_are_made_listed_changed_and_disabled(commands: CommandLine, tmp_path: Path) -> None:
    made = commands.ask("users", "create", "grace", "--role", "viewer")
    key = commands.ask("keys", "create", "hers", "--user", made["id"])["token"]
    assert "grace" in commands.run("users", "list").out
    assert commands.ask("users", "change", "grace", "--role", "operator")["role"] == "operator"
    assert commands.run("users", "list", "--api-key", key).code == 4
    disabled = commands.ask("users", "change", "grace", "--disable", "--cancel-executions")
    assert disabled["disabled_at"]
    assert commands.run("tasks", "list", "--api-key", key).code == 4
    assert commands.ask("users", "change", made["id"], "--enable")["disabled_at"] is None
    assert commands.run("users", "change", "grace").code == 2
    assert commands.run("users", "change", "nobody", "--enable").code == 3


def test_the_audit_trail_is_compared_with_what_an_earlier_check_printed(
    commands: CommandLine,
) -> None:
    def head() -> str:
        return str(commands.ask("audit", "verify")["head"])

    wait_until(lambda: not head().startswith("0:"), "the keeper seals the first entries", within=60)
    kept = commands.run("audit", "verify").out.splitlines()[-1]
    position, seal = kept.split(":")
    again = commands.run("audit", "verify", "--expect", kept)
    assert (again.code, "as they were written" in again.err + again.out) == (0, True)

    forged = "0" * len(seal)
    for expected, said in (
        (f"{position}:{forged}", f"the trail has no such seal at {position}"),
        (f"{int(position) + 1_000_000}:{seal}", "The end was cut off"),
    ):
        result = commands.run("audit", "verify", "--expect", expected)
        assert (result.code, said in result.err) == (1, True), result.err
        assert "The audit trail is not what was expected." in result.err
        answer = commands.run("audit", "verify", "--expect", expected, "--json")
        assert (answer.code, answer.value["ok"]) == (1, False)
    for malformed, said in (
        ("12", "no colon"), (f"x:{seal}", "not a number"), ("1:xyz", "other than 0-9"),
        ("1:ab", "has 2 characters"),
    ):  # fmt: skip
        result = commands.run("audit", "verify", "--expect", malformed)
        assert (result.code, said in result.err) == (2, True), result.err
