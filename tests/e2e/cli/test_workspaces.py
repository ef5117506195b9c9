"""`workspaces`, and `--workspace` of every command, against a running system."""

import pytest

from tests.support.command_line import CommandLine, RunningUp

pytestmark = pytest.mark.requirement("F8")
TEAM = ("--workspace", "research", "--json")


@pytest.fixture(scope="module")
def ada(commands: CommandLine, up: RunningUp) -> dict[str, str]:
    """The environment with the key of a user who is an admin of the workspace `research`."""
    del up
    user = commands.ask("users", "create", "ada")["id"]
    key = commands.ask("keys", "create", "ada", "--user", user)["token"]
    assert commands.ask("workspaces", "create", "research")["personal_of"] is None
    joined = commands.ask("workspaces", "add", "research", "ada", "--role", "admin")
    assert (joined["name"], joined["role"]) == ("ada", "admin")
    return {"CELERIAC_API_KEY": key}


def test_commands_work_in_the_workspace_that_they_name(
    commands: CommandLine, ada: dict[str, str]
) -> None:
    listed = commands.run("workspaces", "list", "--json", **ada).value
    assert [each["name"] for each in listed] == ["research", "ada"]
    function = ("--function", "tests.support.fleet_agents:noop")
    assert commands.run("agents", "create", "shared", *function, *TEAM, **ada).code == 0
    assert commands.run("tasks", "create", "shared", "--agent", "shared", *TEAM, **ada).code == 0
    ended = commands.run("run", "shared", *TEAM, **ada)
    assert ended.code == 0, ended.err
    shown = commands.run("tasks", "show", "shared", **ada, CELERIAC_WORKSPACE="research")
    assert shown.code == 0, shown.err
    assert commands.run("tasks", "show", "shared", **ada).code == 3, "not in her own"
    refused = commands.run("tasks", "list", "--workspace", "research")
    assert (refused.code, "no member" in refused.err) == (4, True), "not for the administrator"


def test_a_workspace_has_keys_and_budgets(commands: CommandLine, ada: dict[str, str]) -> None:
    key = commands.run("keys", "create", "ci", *TEAM, **ada).value
    assert (key["workspace_name"], key["role"]) == ("research", "admin")
    assert commands.run("tasks", "list", CELERIAC_API_KEY=key["token"]).code == 0
    commands.ask("budgets", "set", "day", "--of-workspace", "research", "--tokens", "9000000")
    (budget,) = commands.run("budgets", "list", *TEAM, **ada).value
    assert (budget["scope"], budget["subject_name"]) == ("workspace", "research")


@pytest.mark.usefixtures("up")
def test_members_are_changed_and_removed(commands: CommandLine) -> None:
    commands.ask("users", "create", "bob")
    commands.ask("workspaces", "create", "sales")
    commands.ask("workspaces", "add", "sales", "bob")
    assert commands.ask("workspaces", "change", "sales", "bob", "--role", "viewer")["role"] == (
        "viewer"
    )
    assert "viewer" in commands.run("workspaces", "members", "sales").out
    removed = commands.run("workspaces", "remove", "sales", "bob")
    assert (removed.code, removed.out) == (0, "removed · bob\n")
    assert commands.run("workspaces", "remove", "sales", "bob").code == 3


def test_a_person_is_invited_and_a_workspace_deleted(
    commands: CommandLine, ada: dict[str, str]
) -> None:
    invited = commands.run("workspaces", "invite", "research", "eve", *TEAM[:2], **ada)
    token = invited.out.strip()
    assert token.startswith("celinv_"), invited.err
    accepted = commands.run("invitations", "accept", token)
    assert (accepted.code, accepted.out[:4]) == (0, "cel_"), accepted.err
    eve = {"CELERIAC_API_KEY": accepted.out.strip()}
    names = [each["name"] for each in commands.run("workspaces", "list", "--json", **eve).value]
    assert sorted(names) == ["eve", "research"]
    again = commands.run("invitations", "accept", token)
    assert (again.code, "not valid" in again.err) == (3, True)
    commands.run("workspaces", "invite", "research", "dan", *TEAM[:2], **ada)
    (dan,) = [
        each
        for each in commands.run("invitations", "list", "research", *TEAM, **ada).value
        if each["name"] == "dan"
    ]
    revoked = commands.run("invitations", "revoke", "research", dan["id"][-8:], *TEAM[:2], **ada)
    assert (revoked.code, revoked.out) == (0, "revoked · dan\n"), revoked.err
    commands.ask("workspaces", "create", "closing")
    refused = commands.run("workspaces", "delete", "closing")
    assert (refused.code, "--yes" in refused.err) == (2, True)
    deleted = commands.run("workspaces", "delete", "closing", "--yes")
    assert (deleted.code, deleted.out) == (0, "deleted · workspace closing\n"), deleted.err
