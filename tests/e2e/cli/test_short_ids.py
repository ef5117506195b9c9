"""Ids as people type them: short, and `last`."""

import pytest

from celeriac.client import Client
from tests.support.command_line import CommandLine

pytestmark = pytest.mark.usefixtures("up")


def test_executions_are_found_by_a_part_of_their_id(commands: CommandLine, client: Client) -> None:
    whole = str(client.executions.run("noop", {"n": 1}).id)
    for short in (whole[-6:], whole[-12:].upper(), whole[:-2], whole.replace("-", "")[:-1], "last"):
        assert commands.ask("executions", "show", short)["id"] == whole, short
    assert commands.run("monitor", "last").code == 0
    assert "completed" in commands.run("timeline", whole[-6:]).out
    detached = commands.run("run", "noop", "--detach")
    hint = detached.err.split("`")[1].split()
    assert hint[:2] == ["celeriac", "monitor"]
    assert commands.ask(*hint[1:])["id"] == detached.out.strip()


def test_a_part_that_several_share_lists_them(commands: CommandLine, client: Client) -> None:
    ids = [str(client.executions.execute("noop").execution_id) for _ in range(2)]
    refused = commands.run("executions", "show", ids[0][:6])
    assert refused.code == 2
    assert "[ambiguous_id]" in refused.err
    assert ids[1] in refused.err


@pytest.mark.parametrize(
    ("text", "code", "words"),
    [
        ("ffffffffffff", 3, "None of the newest 500 executions has an id"),
        ("12345", 2, "at least 6 characters"),
        ("notanid", 2, "'notanid' is not the id of an execution"),
    ],
)
def test_what_is_no_id_is_said_in_words(
    commands: CommandLine, text: str, code: int, words: str
) -> None:
    refused = commands.run("executions", "show", text)
    assert refused.code == code
    assert words in refused.err


def test_approvals_and_keys_have_short_ids_too(commands: CommandLine) -> None:
    key = commands.ask("keys", "create", "short")
    assert commands.ask("keys", "revoke", key["id"][-8:])["id"] == key["id"]
    assert commands.run("approvals", "show", "ffffffff").code == 3


def test_names_and_ids_are_completed(commands: CommandLine, client: Client) -> None:
    done = str(client.executions.execute("noop").execution_id)
    for typed, expected in (
        ("celeriac run no", "noop"),
        ("celeriac tasks show no", "noop"),
        (f"celeriac executions show {done[:9]}", done),
        ("celeriac executions show la", "last"),
    ):
        completed = commands.run(
            _CELERIAC_COMPLETE="complete_bash",
            COMP_WORDS=typed,
            COMP_CWORD=str(len(typed.split()) - 1),
            CELERIAC_HOME=str(commands.home),
        )
        assert expected in completed.out.split(), (typed, completed)


def test_without_a_server_nothing_is_completed_and_nothing_printed(commands: CommandLine) -> None:
    completed = commands.run(
        _CELERIAC_COMPLETE="complete_bash",
        COMP_WORDS="celeriac run no",
        COMP_CWORD="2",
        CELERIAC_API_URL="http://127.0.0.1:9",
        CELERIAC_API_KEY="cel_none_none",
    )
    assert (completed.out.strip(), completed.err) == ("", "")
