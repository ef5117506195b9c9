"""`celeriac approvals`: in scripts, and step by step on a terminal."""

from typing import Any

import pytest

from tests.support.command_line import CommandLine
from tests.support.waiting import wait_until

pytestmark = pytest.mark.usefixtures("up")


def ask(commands: CommandLine) -> dict[str, Any]:
    """Run the task `form` until it asks; return its question."""
    execution = commands.ask("run", "form", "--detach")["execution_id"]
    found: list[dict[str, Any]] = []

    def asked() -> bool:
        found[:] = commands.ask("approvals", "list", "--execution", execution)
        return bool(found)

    wait_until(asked, "the form is asked")
    return found[0]


def test_a_form_is_answered_by_a_script(commands: CommandLine) -> None:
    question = ask(commands)
    number = question["id"]

    shown = commands.run("approvals", "show", number).out
    assert "Which one?" in shown
    silent = commands.run("approvals", "answer", number)
    assert (silent.code, "--approve or --refuse" in silent.err) == (2, True)
    wrong = commands.run("approvals", "answer", number, "--set", "colour=red", "--set", "size=0")
    assert (wrong.code, "value.size" in wrong.err) == (2, True)
    answered = commands.ask("approvals", "answer", number, "--set", "colour=red", "--set", "size=3")

    assert (answered["status"], answered["value"]) == ("answered", {"colour": "red", "size": 3})
    late = commands.run("approvals", "answer", number, "--refuse")
    assert (late.code, "[approval_closed]" in late.err) == (1, True)
    done = commands.ask("monitor", question["execution_id"])
    assert done["result"] == answered["value"]
    assert number in commands.run("approvals", "list", "--all").out


def test_a_form_is_filled_in_on_a_terminal_and_again_where_it_does_not_fit(
    commands: CommandLine,
) -> None:
    question = ask(commands)

    drawn = commands.talk(
        "approvals", "answer", question["id"],
        lines=[
            ("Answer it?", "y"),
            ("colour (red, green)", "green"),
            ("size", "0"),
            ("Note to the agent", ""),
            ("colour (red, green)", "green"),
            ("size", "2"),
            ("Note to the agent", "as you like"),
        ],
    )  # fmt: skip

    for part in ("Which one?", "In metres.", "value.size: ", "approved · "):
        assert part in drawn
    answered = commands.ask("approvals", "show", question["id"])
    assert (answered["value"], answered["note"]) == ({"colour": "green", "size": 2}, "as you like")
