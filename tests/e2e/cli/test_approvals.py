"""`celeriac approvals`: in scripts, and step by step on a terminal."""

import pytest

from celeriac import wire
from celeriac.client import Client
from tests.support.command_line import CommandLine
from tests.support.waiting import wait_until

pytestmark = pytest.mark.usefixtures("up")


def ask(client: Client) -> wire.Approval:
    """Run the task `form` until it asks; return its question."""
    execution = client.executions.execute("form").execution_id
    found: list[wire.Approval] = []

    def asked() -> bool:
        found[:] = client.approvals.list(execution_id=execution)
        return bool(found)

    wait_until(asked, "the form is asked")
    return found[0]


def test_a_form_is_answered_by_a_script(commands: CommandLine, client: Client) -> None:
    question = ask(client)
    number = str(question.id)

    shown = commands.run("approvals", "show", number).out
    assert "Which one?" in shown
    silent = commands.run("approvals", "answer", number)
    assert (silent.code, "--approve or --deny" in silent.err) == (2, True)
    wrong = commands.run("approvals", "answer", number, "--set", "colour=red", "--set", "size=0")
    assert (wrong.code, "value.size" in wrong.err) == (2, True)
    answered = commands.ask("approvals", "answer", number, "--set", "colour=red", "--set", "size=3")

    assert (answered["status"], answered["value"]) == ("answered", {"colour": "red", "size": 3})
    late = commands.run("approvals", "answer", number, "--deny")
    assert (late.code, "[approval_closed]" in late.err) == (1, True)
    assert question.execution_id is not None
    assert client.executions.wait(question.execution_id).result == answered["value"]
    assert number in commands.run("approvals", "list", "--all").out


def test_a_form_is_filled_in_on_a_terminal_and_again_where_it_does_not_fit(
    commands: CommandLine, client: Client
) -> None:
    question = ask(client)

    drawn = commands.talk(
        "approvals", "answer", str(question.id),
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
    answered = client.approvals.get(question.id)
    assert (answered.value, answered.note) == ({"colour": "green", "size": 2}, "as you like")
