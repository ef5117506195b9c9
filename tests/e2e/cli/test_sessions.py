"""`sessions`, `run --session` and files, against a running system."""

from pathlib import Path

import pytest

from celeriac.client import Client
from celeriac.domain.agents import LlmAgent, PythonAgent
from tests.support.command_line import CommandLine

pytestmark = pytest.mark.usefixtures("up")


@pytest.mark.requirement("A12")
def test_a_session_is_gone_on_with_looked_at_and_deleted(
    commands: CommandLine, client: Client, tmp_path: Path
) -> None:
    client.agents.create("rememberer", LlmAgent(model="scripted/model", keep_session=True))
    client.tasks.create("remember", "rememberer", {"prompt": "{{ prompt }}"})
    talk = ("run", "remember", "--var", "prompt=plain talk")
    first = commands.ask(*talk)
    session_id = first["session_id"]
    again = commands.ask(*talk, "--session", session_id, "--budget-tokens", "100000")
    assert (again["status"], again["session_id"]) == ("completed", session_id)
    assert again["message_count"] >= 2
    assert again["options"]["budget"]["max_tokens"] == 100_000
    fork = commands.ask(*talk, "--session", session_id, "--fork")
    assert fork["session_id"] != session_id
    shown = commands.ask("sessions", "show", fork["session_id"])
    assert (shown["parent_id"], shown["status"]) == (session_id, "ended")
    listed = commands.ask("sessions", "list", "--runner", "llm", "--limit", "2")
    assert [each["id"] for each in listed] == [fork["session_id"], session_id]
    assert session_id in commands.run("sessions", "list", "--execution", again["id"]).out

    away = commands.run("sessions", "files", session_id)
    assert (away.code, "[files_not_here]" in away.err) == (3, True)
    agent = PythonAgent(function="tests.support.fleet_agents:take_notes")
    client.agents.create("noter", agent)
    client.tasks.create("take-notes", "noter", {"prompt": ""})
    noted = commands.ask("run", "take-notes")["id"]
    assert "notes/a b.txt" in commands.run("executions", "files", noted).out
    download = ("executions", "download", noted, "--to", str(tmp_path))
    (got,) = commands.ask(*download)
    assert got["size"] == 5
    assert (tmp_path / "notes" / "a b.txt").read_text() == "noted"
    refused = commands.run(*download)
    assert (refused.code, "--overwrite" in refused.err) == (1, True)
    assert commands.run(*download, "notes/a b.txt", "--overwrite").code == 0

    assert commands.run("sessions", "delete", session_id).code == 0
    gone = commands.run(*talk, "--session", session_id)
    assert "[session_deleted]" in gone.err
    assert commands.run("run", "noop", "--fork").code == 2
