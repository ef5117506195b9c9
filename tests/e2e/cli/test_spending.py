"""`budgets`, `usage` and `prices` against a running system."""

from typing import Any

import pytest

from celeriac.client import Client
from celeriac.domain.agents import LlmAgent
from tests.support.command_line import CommandLine

pytestmark = pytest.mark.usefixtures("up")


def make(client: Client, name: str, prompt: str, **agent: Any) -> None:
    """Make an agent and a task of a name."""
    client.agents.create(name, LlmAgent(model="scripted/small", **agent))
    client.tasks.create(name, name, {"prompt": prompt})


def test_budgets_are_set_shown_and_deleted(commands: CommandLine, client: Client) -> None:
    client.tasks.create("bounded", "noop")
    done = client.executions.run("bounded").id
    made = commands.ask("budgets", "set", "day", "--task", "bounded", "--cost", "2.50")
    assert (made["max_cost"], made["on_budget"]) == ("2.50", "stop")
    changed = commands.ask(
        "budgets", "set", "day", "--task", "bounded", "--tokens", "5000", "--when-spent", "ask"
    )
    assert (changed["id"], changed["max_cost"]) == (made["id"], None)
    assert commands.ask("budgets", "show", made["id"]) == changed
    assert commands.ask("budgets", "list", "--task", "bounded") == [changed]
    assert "0 of 5,000" in commands.run("budgets", "list").out
    assert "bounded" in commands.run("budgets", "show", made["id"]).out
    (held,) = commands.ask("budgets", "of", str(done))
    assert held["budget_id"] == made["id"]
    assert commands.run("budgets", "delete", made["id"]).code == 0
    assert commands.run("budgets", "show", made["id"]).code == 3


def test_a_budget_needs_a_limit_and_an_owner(commands: CommandLine) -> None:
    assert "--cost" in commands.run("budgets", "set", "day", "--task", "noop").err
    assert "--user" in commands.run("budgets", "set", "day", "--tokens", "1").err


@pytest.mark.requirement("E5")
def test_usage_is_added_up_and_prices_are_told(commands: CommandLine, client: Client) -> None:
    make(client, "counted", "plain words")
    client.executions.run("counted")
    (task,) = commands.ask("usage", "--by", "task", "--task", "counted")
    assert (task["name"], task["calls"], task["input_tokens"]) == ("counted", 1, 10)
    assert "scripted/small" in commands.run("usage", "--by", "model").out
    assert commands.run("usage", "--since", "2026-01-31", "--until", "2026-01-01").code == 2

    known = commands.run("prices", "openai/gpt-4o-mini").out.split()
    assert known[-1] == "$0.60"
    unknown = commands.run("prices", "nobody/knows")
    assert unknown.code == 3
    assert "CELERIAC_PRICES_FILE" in unknown.err


def test_what_is_spent_beyond_a_budget_is_told(commands: CommandLine, client: Client) -> None:
    make(client, "over", "plain words", max_output_tokens=5)

    ran = commands.run("run", "over", "--budget-tokens", "12")

    assert ran.code == 0
    assert "3 tokens beyond the execution's budget" in ran.err
    shown = commands.run("executions", "show", "last").out
    assert "3 tokens beyond the execution's budget" in " ".join(shown.split())

    refused = commands.run("run", "over", "--budget-tokens", "6")
    assert refused.code != 0
    assert "needs at least 7 tokens, 6 are left" in " ".join(refused.err.split())


def test_an_answer_that_a_budget_cut_off_names_it(commands: CommandLine, client: Client) -> None:
    make(client, "clip", "cut short", max_output_tokens=500)

    ran = commands.run("run", "clip", "--budget-tokens", "60")

    assert ran.code == 0, ran.err
    said = " ".join(ran.err.split())
    assert "Warning: the result is cut off. The answer was cut off at 49 tokens" in said
    assert "no more is left of the execution's budget" in said
    assert "max_output_tokens" not in said
