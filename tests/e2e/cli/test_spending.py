"""`budgets`, `usage` and `prices` against a running system."""

import pytest

from tests.support.command_line import CommandLine

pytestmark = pytest.mark.usefixtures("up")


def test_budgets_are_set_shown_and_removed(commands: CommandLine) -> None:
    commands.ask("tasks", "create", "bounded", "--agent", "noop")
    done = commands.ask("run", "bounded")
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
    (held,) = commands.ask("budgets", "of", done["id"])
    assert held["budget_id"] == made["id"]
    assert commands.run("budgets", "remove", made["id"]).code == 0
    assert commands.run("budgets", "show", made["id"]).code == 3


def test_a_budget_needs_a_limit_and_an_owner(commands: CommandLine) -> None:
    assert "--cost" in commands.run("budgets", "set", "day", "--task", "noop").err
    assert "--user" in commands.run("budgets", "set", "day", "--tokens", "1").err


@pytest.mark.requirement("E5")
def test_usage_is_added_up_and_prices_are_told(commands: CommandLine) -> None:
    commands.ask("agents", "create", "counted", "--model", "scripted/small")
    commands.ask("tasks", "create", "counted", "--agent", "counted", "--prompt", "plain words")
    commands.ask("run", "counted")
    (task,) = commands.ask("usage", "--by", "task", "--task", "counted")
    assert (task["name"], task["calls"], task["input_tokens"]) == ("counted", 1, 10)
    assert "scripted/small" in commands.run("usage", "--by", "model").out
    assert commands.run("usage", "--since", "2026-01-31", "--until", "2026-01-01").code == 2

    known = commands.run("prices", "openai/gpt-4o-mini").out.split()
    assert known[-1] == "$0.60"
    unknown = commands.run("prices", "nobody/knows")
    assert unknown.code == 3
    assert "CELERIAC_PRICES_FILE" in unknown.err


def test_what_is_spent_beyond_a_budget_is_told(commands: CommandLine) -> None:
    commands.ask(
        "agents", "create", "over", "--model", "scripted/small", "--set", "max_output_tokens:=5"
    )
    commands.ask("tasks", "create", "over", "--agent", "over", "--prompt", "plain words")

    ran = commands.run("run", "over", "--budget-tokens", "12")

    assert ran.code == 0
    assert "3 tokens beyond the execution's budget" in ran.err
    shown = commands.run("executions", "show", "last").out
    assert "3 tokens beyond the execution's budget" in " ".join(shown.split())

    refused = commands.run("run", "over", "--budget-tokens", "6")
    assert refused.code != 0
    assert "needs at least 7 tokens, 6 are left" in " ".join(refused.err.split())


def test_an_answer_that_a_budget_cut_off_names_it(commands: CommandLine) -> None:
    commands.ask(
        "agents", "create", "clip", "--model", "scripted/small", "--set", "max_output_tokens:=500"
    )
    commands.ask("tasks", "create", "clip", "--agent", "clip", "--prompt", "cut short")

    ran = commands.run("run", "clip", "--budget-tokens", "60")

    assert ran.code == 0, ran.err
    said = " ".join(ran.err.split())
    assert "Warning: the result is cut off. The answer was cut off at 49 tokens" in said
    assert "no more is left of the execution's budget" in said
    assert "max_output_tokens" not in said
