"""`celeriac apply` against a running system."""

import json
from pathlib import Path

import pytest

from celeriac import Client, ClientError
from tests.support.command_line import CommandLine, RunningUp

PROJECT = """\
agents:
- name: herald
  spec:
    runner: python
    function: tests.support.fleet_agents:noop
tasks:
- name: announce
  agent: herald
  description: Announces.
  spec:
    variables_schema: {type: object}
    prompt: |
      Announce this:
      {{ text }}
budgets:
- task: announce
  period: day
  max_tokens: 1000
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A file that describes an agent, a task and a budget."""
    path = tmp_path / "project.yaml"
    path.write_text(PROJECT)
    return path


def test_a_file_is_applied_run_and_changed(
    commands: CommandLine, up: RunningUp, project: Path
) -> None:
    planned = commands.run("apply", "-f", str(project), "--dry-run", "--exit-code")
    assert planned.code == 1, "something differs"
    assert planned.out.splitlines()[:3] == [
        "+ agent herald",
        '    spec.runner: "python"',
        '    spec.function: "tests.support.fleet_agents:noop"',
    ]
    assert "3 to create, 0 to change, 0 unchanged. Nothing was written" in planned.out
    assert commands.run("tasks", "show", "announce").code == 3
    done = commands.run("apply", "-f", str(project))
    assert done.code == 0, done.err
    assert done.out.endswith("3 created, 0 changed, 0 unchanged.\n")
    assert len(done.out.splitlines()) == 4, "a line for each, and the sum"
    assert commands.ask("run", "announce", "--var", "text=a")["status"] == "completed"

    again = commands.run("apply", "-f", str(project), "--dry-run", "--exit-code")
    assert (again.code, again.out.splitlines()[-1]) == (0, "Nothing to do: 3 unchanged.")
    changed = PROJECT.replace("this:", "that:").replace("1000", "2000")
    text = commands.run("apply", "--file", "-", stdin=changed)
    assert text.code == 0, text.err
    assert "~ task announce · version 2" in text.out
    assert "      -Announce this:\n      +Announce that:\n       {{ text }}\n" in text.out
    assert "    max_tokens: 1000 → 2000\n" in text.out
    assert text.out.endswith("0 created, 2 changed, 1 unchanged.\n")


def test_files_are_applied_together_and_told_as_json(
    commands: CommandLine, up: RunningUp, tmp_path: Path
) -> None:
    agents, tasks = tmp_path / "agents.json", tmp_path / "tasks.yaml"
    agents.write_text(
        json.dumps({"agents": [{"name": "pair", "spec": {"runner": "llm", "model": "a/b"}}]})
    )
    tasks.write_text("tasks:\n- {name: pair, agent: pair, spec: {prompt: Hello}}\n")
    alone = commands.run("apply", "-f", str(tasks))
    assert alone.code == 2
    assert f"{tasks}:2:16: task pair, agent: there is no agent 'pair'" in alone.err
    done = commands.ask("apply", "-f", str(tasks), "-f", str(agents))
    assert [(each["kind"], each["action"]) for each in done["items"]] == [
        ("agent", "create"),
        ("task", "create"),
    ]
    with Client(up.facts["api_url"], Path(up.facts["key_file"]).read_text().strip()) as client:
        assert client.apply({"agents": [], "tasks": []}).items == []
        assert client.apply(agents, dry_run=True).unchanged == 1
        agents.write_text('{"agents": [\n{"name": "pair", "spec": {"runner": "llm"}}]}')
        with pytest.raises(ClientError, match=rf"{agents}:2:18: agent pair, spec.model: is req"):
            client.apply(agents)


def test_what_is_wrong_is_told_with_its_line(
    commands: CommandLine, up: RunningUp, project: Path
) -> None:
    wrong = PROJECT.replace("function:", "funktion:").replace("  agent: herald", "  active: no")
    project.write_text(wrong)
    result = commands.run("apply", "-f", str(project))
    assert result.code == 2
    lines = result.err.splitlines()
    assert lines[0].startswith("error: The document can't be applied; nothing was changed.")
    assert lines[0].endswith("[invalid_input]")
    assert f"{project}:5:5: agent herald, spec.funktion: is not a field here" in result.err
    assert f"{project}:8:3: task announce, active: input should be a valid boolean; " in result.err
    assert len(lines) == 5, "each once"
    project.write_text("agents: [")
    broken = commands.run("apply", "-f", str(project))
    assert (broken.code, "[document_invalid]" in broken.err) == (2, True)
    assert commands.run("apply").code == 2
    assert commands.run("apply", "-f", str(project.with_name("none.yaml"))).code == 2
    assert commands.run("apply", "-f", str(project), "--exit-code").code == 2


SHOP = '''\
import celeriac


@celeriac.agent("shop-greet")
async def greet(name: str, times: int = 1) -> str:
    """Greet somebody
    by their name.

    And so on.
    """
    return f"Hello, {name}!" * times
'''


@pytest.fixture
def shop(commands: CommandLine) -> Path:
    """A module of agents in the current directory, which workers may import."""
    path = commands.directory / "applied_shop.py"
    path.write_text(SHOP)
    return path


@pytest.mark.usefixtures("up", "shop")
def test_the_functions_of_a_module_are_run_by_their_names(
    commands: CommandLine, tmp_path: Path
) -> None:
    missing = commands.run("run", "shop-greet")
    assert missing.code == 3
    assert "`celeriac apply --module applied_shop` creates it from the function" in missing.err
    assert "`celeriac tasks list`" in commands.run("run", "nobody-knows-it").err
    done = commands.ask("apply", "-m", "applied_shop")
    assert [(each["kind"], each["name"], each["action"]) for each in done["items"]] == [
        ("agent", "shop-greet", "create"),
        ("task", "shop-greet", "create"),
    ]
    assert commands.ask("run", "shop-greet", "--var", "name=Ada")["result"] == "Hello, Ada!"
    task = commands.ask("tasks", "show", "shop-greet")
    assert task["description"] == "Greet somebody by their name."
    refused = commands.run("run", "shop-greet", "--var", "nam=Ada")
    assert (refused.code, "[variables_invalid]" in refused.err) == (2, True), "before it is stored"

    commands.ask("tasks", "update", "shop-greet", "--set", "limits.hard_seconds:=700")
    again = commands.run("apply", "--module", "applied_shop")
    assert again.out.endswith("Nothing to do: 2 unchanged.\n"), again.err
    assert commands.ask("tasks", "show", "shop-greet")["spec"]["limits"]["hard_seconds"] == 700
    file = tmp_path / "project.yaml"
    file.write_text("tasks:\n- {name: shop-greet, agent: shop-greet, description: Mine.}\n")
    both = commands.ask("apply", "-f", str(file), "-m", "applied_shop")
    assert [(each["kind"], each["action"]) for each in both["items"]] == [
        ("agent", "unchanged"),
        ("task", "change"),
    ]
    assert commands.ask("tasks", "show", "shop-greet")["description"] == "Mine."
    elsewhere = commands.run("apply", "-m", "applied_shop", CELERIAC_AGENT_MODULES="")
    assert "note: workers import applied_shop only if CELERIAC_AGENT_MODULES" in elsewhere.err


@pytest.mark.usefixtures("up")
def test_a_function_takes_no_other_agent_s_place(commands: CommandLine, shop: Path) -> None:
    shop.write_text(SHOP.replace("shop-greet", "shop-writer"))
    commands.ask("agents", "create", "shop-writer", "--model", "a/b")
    refused = commands.run("apply", "-m", "applied_shop")
    assert (refused.code, "[name_taken]" in refused.err) == (1, True)
    assert "applied_shop:greet can't replace it" in refused.err
    commands.ask("agents", "delete", "shop-writer")
    commands.ask("tasks", "create", "shop-writer", "--agent", "noop")
    refused = commands.run("apply", "-m", "applied_shop")
    assert "belongs to the agent 'noop'" in refused.err
    assert commands.run("agents", "show", "shop-writer").code == 3, "nothing was made"
