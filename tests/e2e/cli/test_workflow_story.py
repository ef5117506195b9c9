"""All commands of `celeriac workflow-runs` in the order in which a user comes to need them."""

import re
from pathlib import Path
from typing import Any

import pytest

from celeriac.client import Client
from celeriac.domain.agents import PythonAgent
from celeriac.kit.yaml_text import read_text
from tests.e2e.cli.conftest import AGENTS
from tests.support.command_line import CommandLine, Result
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.usefixtures("up"), pytest.mark.requirement("E3")]

LEAD = """\
workflow: story-lead
input: {name: string, cured: string}
steps:
  enrich: {task: story-pick, with: {value: "${{ input.name }}", bad: [bob], cured: "${{ input.cured }}"}}
  note: {task: noop, with: {text: "Dear ${{ steps.enrich.result }}"}}
returns: "${{ steps.note.result.text }}"
"""  # noqa: E501
LEADS = """\
workflow: story-leads
input: {names: array, cured: string}
steps:
  qualify:
    workflow: story-lead
    map: input.names
    with: {name: "${{ item }}", cured: "${{ input.cured }}"}
  ok: {approve: Mail them?, show: "${{ steps.qualify.results }}"}
  mail: {task: noop, map: steps.qualify.results, with: {text: "${{ item }}"}, needs: [ok]}
returns: "${{ steps.mail.results }}"
"""
MAILED = [{"text": "Dear ada"}, {"text": "Dear bob"}]
ANSWER = re.compile(r"answer: (celeriac approvals answer [0-9a-f]{12} --approve), or --deny")


@pytest.fixture(scope="module", autouse=True)
def workflows(client: Client) -> None:
    """The workflows of the story."""
    client.agents.create("story-pick", PythonAgent(function=f"{AGENTS}:pick"))
    client.tasks.create("story-pick", "story-pick", {"retry": {"max_retries": 0}})
    for text in (LEAD, LEADS):
        spec: Any = read_text(text, "story.yaml").value
        client.workflows.create(spec.pop("workflow"), spec)


class User:
    """Who types commands of `workflow-runs` and reads what they write."""

    def __init__(self, commands: CommandLine, client: Client) -> None:
        self._commands = commands
        self._client = client

    def runs(self, *arguments: str, code: int = 0) -> Result:
        """Run `celeriac workflow-runs ARGUMENTS`, which ends with `code`."""
        result = self._commands.run("workflow-runs", *arguments)
        assert result.code == code, f"{arguments}: {result.out}{result.err}"
        return result

    def started(self, *arguments: str) -> str:
        """Run a command that prints the id of a new run; return it once that asks a person."""
        result = self._commands.run(*arguments)
        assert result.code == 0, result.err
        run_id = result.out.strip()
        asked = self._client.approvals
        wait_until(lambda: list(asked.list(status="open", workflow_run_id=run_id)), "it asks")
        return run_id

    def answer(self, *options: str) -> None:
        """Answer the newest question."""
        done = self._commands.run("approvals", "answer", "last", *options)
        assert done.code == 0, done.err

    def answer_as_shown(self, run_id: str) -> None:
        """Run the command that `workflow-runs show` gives for the question of a run."""
        shown = self.runs("show", run_id).out
        assert "▸ ok · waits for an answer\n      Mail them?\n" in shown
        found = ANSWER.search(shown)
        assert found is not None, shown
        done = self._commands.run(*found[1].split()[1:])
        assert done.code == 0, done.err


def test_a_run_fails_is_found_repeated_answered_forked_and_cancelled(
    commands: CommandLine, client: Client, tmp_path: Path
) -> None:
    user, cured = User(commands, client), tmp_path / "cured"

    # a run fails; where and why is found from the top down
    given = ("--var", 'names:=["ada", "bob"]', "--var", f"cured={cured}")
    failed = commands.run("workflows", "run", "story-leads", *given)
    assert (failed.code, failed.out) == (1, "")
    assert "celeriac workflow-runs show " in failed.err
    (row,) = user.runs("list", "--workflow", "story-leads", "-s", "failed").out.splitlines()[1:]
    first = row.split()[0]
    assert "✗ qualify · failed · 2 of 2 · 1 failed" in user.runs("show", first).out
    (bad,) = user.runs("items", first, "qualify", "--status", "failed").out.splitlines()[1:]
    child = bad.split()[2]
    assert bad.split()[:2] == ["1", "failed"]
    assert "bob is bad" in user.runs("items", child, "enrich").out

    # repeated from there; on a terminal the tree shows the question and how to answer it
    cured.touch()
    again = user.started("workflow-runs", "retry", first)
    drawn = commands.on_terminal(
        "workflow-runs", "follow", again, sight="--approve, or --deny",
        then=lambda: user.answer_as_shown(again),
    )  # fmt: skip
    assert "✓ mail · completed" in drawn
    assert client.workflow_runs.get(again).result == MAILED

    # one step of one item again, and this time the answer is no
    forked = user.started("workflow-runs", "fork", again, "--step", "qualify[1]/note")
    user.answer("--deny", "--note", "Not yet.")
    followed = user.runs("follow", forked, "--items")
    (new,) = client.workflow_runs.list(parent_run_id=forked)
    assert f"qualify[1] completed · run {new.id}" in followed.err
    shown = user.runs("show", forked).out
    assert "- ok · denied" in shown
    assert "- mail · skipped" in shown

    # another result in place of a step, followed to its end
    other = user.runs("fork", child, "--result", "enrich=eve", "--follow")
    assert other.out == "Dear eve\n"

    # and one that nobody wants any more
    last = user.started("workflows", "run", "story-leads", *given, "--detach")
    assert last in user.runs("cancel", "last").out
    assert "The run was cancelled" in user.runs("follow", "last", code=1).err
