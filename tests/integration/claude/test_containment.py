"""File tools of the real Claude Code: none leaves the working directory.

Claude Code cleans paths up before it uses them (blanks, byte order marks, `~`), and searches with
tools that have their own ideas of patterns: what our hook has checked must be what is used.
"""

import json
from pathlib import Path

import pytest

from celeriac.agents.claude.runner import ClaudeRunner
from celeriac.domain.executions.model import Completed
from celeriac.kit.json_types import JsonObject, loads
from tests.support.claude_jobs import claude_job
from tests.support.run_context import RecordingContext

pytestmark = [pytest.mark.anyio, pytest.mark.requirement("A12", "F4")]

SECRET = "s3cret-of-the-administrator"
TOOLS = ("Read", "Write", "Edit", "Glob", "Grep", "NotebookEdit")
BLANKS = {"space": " ", "tab": "\t", "no-break space": "\u00a0", "byte order mark": "\ufeff"}


@pytest.fixture
def work(context: RecordingContext, tmp_path: Path) -> Path:
    """The session's working directory, beside it a directory with secrets and a link to that."""
    secrets = tmp_path / "secrets"
    secrets.mkdir()
    (secrets / "admin_api_key").write_text(f"{SECRET}\n")
    cell = {"cell_type": "code", "id": "a", "source": SECRET, "metadata": {}, "outputs": []}
    (secrets / "book.ipynb").write_text(
        json.dumps({"cells": [cell], "metadata": {}, "nbformat": 4, "nbformat_minor": 5})
    )
    work = tmp_path / "sessions" / str(context.session_id) / "work"
    (work / "src").mkdir(parents=True)
    (work / "src" / "app.py").write_text("print('app')\n")
    (work / "out").symlink_to(secrets)
    return work


async def made(
    runner: ClaudeRunner, context: RecordingContext, *calls: tuple[str, JsonObject]
) -> list[tuple[bool, str]]:
    """Have Claude Code make tool calls at once; return whether each failed, and its answer."""
    job = claude_job(f"|{json.dumps(calls)}| [calls]", allowed_tools=("*",), tools=TOOLS)
    outcome = await runner.run(job, context)
    assert isinstance(outcome, Completed)
    answers = loads(outcome.result)
    assert isinstance(answers, list)
    return [(failed, text) for failed, text in answers]


@pytest.mark.parametrize("blank", BLANKS.values(), ids=BLANKS)
async def test_no_blank_before_a_path_leads_out(
    runner: ClaudeRunner, context: RecordingContext, tmp_path: Path, work: Path, blank: str
) -> None:
    secrets = tmp_path / "secrets"
    before = {path: path.read_bytes() for path in secrets.iterdir()}
    calls: list[tuple[str, JsonObject]] = [
        ("Grep", {"pattern": ".", "path": f"{blank}{secrets}", "output_mode": "content"}),
        ("Grep", {"pattern": ".", "path": f"{blank}../../../secrets", "output_mode": "content"}),
        ("Glob", {"pattern": "*", "path": f"{blank}{secrets}"}),
        ("Glob", {"pattern": f"{blank}{secrets}/*"}),
        ("Read", {"file_path": f"{blank}{secrets}/admin_api_key"}),
        ("Write", {"file_path": f"{blank}{secrets}/new", "content": "x"}),
        (
            "Edit",
            {
                "file_path": f"{blank}{secrets}/admin_api_key",
                "old_string": SECRET,
                "new_string": "x",
            },
        ),
        ("NotebookEdit", {"notebook_path": f"{blank}{secrets}/book.ipynb", "new_source": "x"}),
    ]

    answers = await made(runner, context, *calls)

    assert [failed for failed, _ in answers] == [True] * len(calls), answers
    for _, text in answers:
        assert SECRET not in text
        assert "admin_api_key:" not in text
    assert {path: path.read_bytes() for path in secrets.iterdir()} == before


async def test_patterns_do_not_lead_out(
    runner: ClaudeRunner, context: RecordingContext, tmp_path: Path, work: Path
) -> None:
    secrets = tmp_path / "secrets"
    patterns = [
        "{.,x}{.,x}/{.,x}{.,x}/{.,x}{.,x}/secrets/*",
        "[.][.]/[.][.]/[.][.]/secrets/*",
        f"{{{secrets},src}}/*",
        f"{secrets}/*",
        "o*t/*",
        "ou[t]/*",
        "out/*",
        "~/*",
        r".\./.\./.\./secrets/*",
    ]

    answers = await made(
        runner,
        context,
        *(("Glob", {"pattern": pattern}) for pattern in patterns),
        ("Grep", {"pattern": ".", "path": "out", "output_mode": "content"}),
        ("Grep", {"pattern": ".", "glob": "../../../secrets/*", "output_mode": "content"}),
        ("Grep", {"pattern": ".", "path": f"file://{secrets}", "output_mode": "content"}),
        ("Grep", {"pattern": ".", "path": f"/proc/self/root{secrets}", "output_mode": "content"}),
        ("Read", {"file_path": f"/proc/self/root{secrets}/admin_api_key"}),
        ("Read", {"file_path": "out/admin_api_key"}),
    )

    assert [failed for failed, _ in answers] == [True] * len(answers), answers
    assert not [text for _, text in answers if SECRET in text]


async def test_searching_does_not_follow_links_that_it_meets(
    runner: ClaudeRunner, context: RecordingContext, work: Path
) -> None:
    found, listed = await made(
        runner,
        context,
        ("Grep", {"pattern": ".", "output_mode": "content"}),
        ("Glob", {"pattern": "**/*"}),
    )

    assert "print('app')" in found[1]
    assert "app.py" in listed[1]
    assert not [text for _, text in (found, listed) if SECRET in text or "admin_api_key" in text]


async def test_what_stays_inside_works_as_ever(
    runner: ClaudeRunner, context: RecordingContext, work: Path
) -> None:
    (work / "a name").mkdir()
    (work / "a name" / "book.ipynb").write_text(
        json.dumps({"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5})
    )

    answers = await made(
        runner,
        context,
        ("Read", {"file_path": "src/app.py"}),
        ("Write", {"file_path": "src/new/$id file.txt", "content": "one\n"}),
        ("Grep", {"pattern": "app", "path": "src", "glob": "*.{py,txt}"}),
        ("Glob", {"pattern": "src/*.{py,txt}"}),
        ("Glob", {"pattern": f"{work}/**/*.py"}),
        ("Glob", {"pattern": "a*/book.ipynb"}),
    )

    assert [failed for failed, _ in answers] == [False] * 6, answers
    assert (work / "src" / "new" / "$id file.txt").read_text() == "one\n"
    assert all("app.py" in answers[number][1] for number in (2, 3, 4)), answers
    assert "book.ipynb" in answers[5][1]
