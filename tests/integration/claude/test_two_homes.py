"""Conversations that are continued in another home: their directory has another path there."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

from celeriac.agents.claude.environment import SessionDirectories
from celeriac.agents.claude.runner import ClaudeRunner
from celeriac.agents.claude.session_store import write_conversation
from celeriac.domain.approvals import Answer
from celeriac.domain.executions.model import Completed, Parked
from celeriac.domain.executions.options import RunOptions
from celeriac.domain.sessions import TranscriptKey
from celeriac.kit.users import OURSELVES
from celeriac.testing.context import MemoryTranscripts
from tests.support.anthropic_server import AnthropicServer
from tests.support.claude_jobs import claude_job, session_of
from tests.support.run_context import RecordingContext

pytestmark = [pytest.mark.anyio, pytest.mark.requirement("A12")]


def following(context: RecordingContext) -> RecordingContext:
    """The context of what comes next in the same session."""
    later = RecordingContext(context.workdir)
    later.session_id = context.session_id
    later.external_id, later.state = context.external_id, context.state
    return later


def conversation(home: Path, session_id: UUID) -> Path:
    (found,) = (home / str(session_id) / "config" / "projects").rglob("*.jsonl")
    return found


def stored(session_id: UUID) -> list[Any]:
    """The entries of the conversation in the database."""
    return [
        entry
        for (owner, _), entries in MemoryTranscripts.stored.items()
        if owner == session_id
        for entry in entries
    ]


@pytest.mark.parametrize("changed", [False, True])
async def test_a_call_that_was_approved_is_made_in_the_other_home(
    runner: ClaudeRunner, context: RecordingContext, tmp_path: Path, *, changed: bool
) -> None:
    """Its paths are absolute, as Claude Code wants them; those of an answer, too."""
    one, other = tmp_path / "sessions", tmp_path / "other"
    arguments = {
        "file_path": str(one / str(context.session_id) / "work" / "note.txt"),
        "content": "noted",
    }
    prompt = f"[calls] |{json.dumps([['Write', arguments]])}|"
    job = claude_job(prompt, permission="ask", tools=("Write",))
    parked = await runner.run(job, context)
    assert isinstance(parked, Parked)
    (question,) = parked.questions
    shutil.rmtree(one)
    later = following(context)
    value = {**arguments, "content": "changed"} if changed else None
    later.given = {question.key: Answer(approved=True, value=value)}
    again = replace(job, attempt=2, session=session_of(context, job.execution_id))

    done = await replace(runner, sessions_root=other).run(again, later)

    assert isinstance(done, Completed)
    written = other / str(context.session_id) / "work" / "note.txt"
    assert written.read_text() == ("changed" if changed else "noted")
    assert not one.exists()


@pytest.mark.parametrize("gone", [False, True])
async def test_an_approved_command_runs_where_claude_code_was_when_it_asked(
    runner: ClaudeRunner, context: RecordingContext, tmp_path: Path, *, gone: bool
) -> None:
    """Each attempt begins in the working directory itself."""
    commands = ["mkdir sub; cd sub; touch ../all", "touch approved; pwd"]
    job = claude_job(f"[steps] |{json.dumps(commands)}|", permission="ask", tools=("Bash",))
    work = tmp_path / "sessions" / str(context.session_id) / "work"
    given: dict[str, Answer] = {}
    for attempt in (1, 2):
        later = following(context)
        later.given = given
        parked = await runner.run(replace(job, attempt=attempt), later)
        assert isinstance(parked, Parked)
        given = {**given, **{each.key: Answer(approved=True) for each in parked.questions}}
        job = replace(job, session=session_of(later, job.execution_id))
    if gone:
        (work / "sub").rmdir()
        (work / "sub").symlink_to(tmp_path)
    last = following(context)
    last.given = given

    done = await runner.run(replace(job, attempt=3), last)

    assert isinstance(done, Completed)
    assert (work / "all").exists()
    assert not (tmp_path / "approved").exists()
    assert not (work / "approved").exists()
    assert (work / "sub" / "approved").exists() is not gone
    assert ("is gone" if gone else str(work / "sub")) in str(done.result)


async def test_the_question_is_found_again_where_an_attempt_begins_anew_in_the_other_home(
    runner: ClaudeRunner, context: RecordingContext, tmp_path: Path
) -> None:
    keys = []
    for home in ("sessions", "other"):
        path = tmp_path / home / str(context.session_id) / "work" / "note.txt"
        calls = [["Write", {"file_path": str(path), "content": "noted"}]]
        job = claude_job(f"[calls] |{json.dumps(calls)}|", permission="ask", tools=("Write",))
        outcome = await replace(runner, sessions_root=tmp_path / home).run(job, context)
        assert isinstance(outcome, Parked)
        keys += [question.key for question in outcome.questions]

    assert keys[0] == keys[1]


async def test_no_path_of_a_home_is_stored_and_a_fork_has_its_own(
    runner: ClaudeRunner, context: RecordingContext, anthropic: AnthropicServer, tmp_path: Path
) -> None:
    work = tmp_path / "sessions" / str(context.session_id) / "work"
    calls = [["Write", {"file_path": str(work / "note.txt"), "content": "noted"}]]
    prompt = f"[calls] |{json.dumps(calls)}|"
    job = claude_job(prompt, allowed_tools=("Write",), tools=("Write",))
    await runner.run(job, context)
    assert "note.txt" in str(stored(context.session_id))
    assert str(tmp_path) not in str(stored(context.session_id))
    fork = RecordingContext(context.workdir)
    forked = claude_job(
        "[remember] Where is it?",
        session=session_of(context, job.execution_id),
        options=RunOptions(fork_session=True),
    )

    assert isinstance(await runner.run(forked, fork), Completed)

    sent = json.dumps(anthropic.received[-1].body["messages"])
    assert str(tmp_path / "sessions" / str(fork.session_id) / "work" / "note.txt") in sent
    assert str(work) not in sent


@pytest.mark.parametrize(
    ("there", "kept"),
    [
        ('{"type":"user","uuid":"1"}\n{"type":"mode"}\n{"type":"user","uuid":"9"}\n', True),
        ('{"type":"cost"}\n{"type":"user","uuid":"1"}\n', True),
        ('{"type":"user","uuid":"1"}\n', False),
        ('{"type":"user","uuid":"1"}\n{"type":"mode"}', False),
        ('{"type":"user","uuid":"2"}\n{"type":"mode"}\n', False),
        ('[]\n{"type":"mode"}\n', False),
        ("[" * 100_000 + "\n{}\n", False),
        ("\xff\n\n\n", False),
    ],
)
async def test_a_file_is_kept_if_it_begins_with_what_is_stored(
    tmp_path: Path, there: str, *, kept: bool
) -> None:
    mine = SessionDirectories.of(tmp_path, uuid4())
    mine.make(OURSELVES)
    transcripts = MemoryTranscripts(uuid4())
    await transcripts.append(TranscriptKey("c1"), [{"type": "user", "uuid": "1"}, {"type": "mode"}])
    await write_conversation(transcripts, "c1", mine.config, mine.work, OURSELVES)
    file = conversation(tmp_path, UUID(mine.place.name))
    written = file.read_text()
    file.write_text(there, encoding="latin-1")

    await write_conversation(transcripts, "c1", mine.config, mine.work, OURSELVES)

    assert file.read_text() == (there if kept else written)
