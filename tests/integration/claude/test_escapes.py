"""Attempts of Claude Code's tools to leave its sandbox, with the policy switched off."""

import json
import os
from dataclasses import replace

import pytest

from celeriac.agents.child.confinement import Confinement
from celeriac.agents.claude.environment import SessionDirectories
from celeriac.agents.claude.permissions import Decision, Policy, Verdict
from celeriac.agents.claude.runner import ClaudeRunner
from celeriac.domain.executions.events import EventType
from celeriac.domain.executions.model import Completed
from celeriac.kit.json_types import JsonObject
from tests.support.claude_jobs import claude_job, session_of
from tests.support.outside import Outside, results_in
from tests.support.run_context import RecordingContext

pytestmark = [pytest.mark.anyio, pytest.mark.requirement("A12", "F4", "F25")]

TOOLS = ("Bash", "Read", "Write", "Edit", "Grep", "Glob")
BLANKS = (
    "",
    " ",
    "\t",
    "\u00a0",
    "\ufeff",
    "\u3000",
    "\u200b",
    "file://",
    "~/../..",
    "./../../../../../..",
)
"""What was before the paths that once led to every secret; Claude Code strips some of it."""


@pytest.fixture
def bounds(outside: Outside) -> Confinement:
    return outside.confinement({"PATH": os.environ["PATH"]})


@pytest.fixture
def runner(runner: ClaudeRunner, outside: Outside) -> ClaudeRunner:
    return replace(runner, sessions_root=outside.home / "sessions")


def file_calls(outside: Outside) -> list[tuple[str, JsonObject]]:
    """Return calls of all file tools for a secret."""
    secret = str(outside.files["secret"])
    folder = str(outside.files["secret"].parent)
    calls: list[tuple[str, JsonObject]] = []
    for blank in BLANKS:
        calls += [
            ("Grep", {"pattern": ".", "path": blank + folder, "output_mode": "content"}),
            ("Glob", {"pattern": "*", "path": blank + folder}),
            ("Read", {"file_path": blank + secret}),
            ("Write", {"file_path": f"{blank}{folder}/new", "content": "x"}),
        ]
    return [
        *calls,
        ("Glob", {"pattern": f"{folder}/*"}),
        ("Grep", {"pattern": ".", "glob": f"{folder}/*", "output_mode": "content"}),
        ("Grep", {"pattern": ".", "path": "root" + folder, "output_mode": "content"}),
    ]


async def test_no_attempt_of_claude_code_succeeds_without_a_policy(
    outside: Outside, runner: ClaudeRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its commands make all attempts, its file tools try the paths of a review's worst finding."""
    context = RecordingContext(outside.workdir)
    places = SessionDirectories.of(runner.sessions_root, context.session_id)
    line = outside.command(places.work, places.config, memory_mb=None)
    calls = [("Bash", {"command": line, "timeout": 100_000}), *file_calls(outside)]
    job = claude_job(f"|{json.dumps(calls)}| [calls]", allowed_tools=("*",), tools=TOOLS)
    with monkeypatch.context() as patch:
        patch.setattr(Policy, "judge", lambda *_: Decision(Verdict.ALLOW))

        done = await runner.run(outside.job(job), context)

    assert isinstance(done, Completed)
    outside.check(results_in(places.work), context)
    assert f"secret {outside.mark}" not in str(context.events)

    calls = file_calls(outside)
    again = claude_job(f"|{json.dumps(calls)}| [calls]", allowed_tools=("*",), tools=TOOLS,
                       session=session_of(context, job.execution_id))  # fmt: skip
    following = RecordingContext(outside.workdir)
    assert isinstance(await runner.run(outside.job(again), following), Completed)

    denied = [data for kind, data in following.events if kind is EventType.TOOL_DENIED]
    assert {each["tool"] for each in denied} == {"Grep", "Glob", "Read", "Write"}
    outside.check_outside()
    assert not (places.work / "hooked").exists(), "settings that an agent has left are not used"
