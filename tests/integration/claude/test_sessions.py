"""Sessions: continued, forked, taken up again after a wait."""

import asyncio
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import pytest

from celeriac.agents.claude.runner import ClaudeRunner
from celeriac.domain.errors import ProviderRateLimitedError, SessionUnavailableError
from celeriac.domain.executions.events import EventType
from celeriac.domain.executions.model import Completed, MustWaitError, Parked
from celeriac.domain.executions.options import RunOptions
from celeriac.domain.executions.states import WaitingFor
from celeriac.domain.usage import CallEstimate, Reservation
from tests.support.anthropic_server import AnthropicServer
from tests.support.claude_jobs import claude_job, session_of
from tests.support.run_context import RecordingContext
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.anyio, pytest.mark.requirement("A12")]


def next_context(context: RecordingContext, *, session: bool) -> RecordingContext:
    """A context for what comes after `context`, in the same session or in a new one."""
    following = RecordingContext(context.workdir)
    if session:
        following.session_id = context.session_id
        following.external_id, following.state = context.external_id, context.state
    return following


async def test_a_session_is_continued_and_a_fork_leaves_it_alone(
    runner: ClaudeRunner, context: RecordingContext, tmp_path: Path
) -> None:
    job = claude_job("[plain] Hello.")
    await runner.run(job, context)
    earlier = session_of(context, job.execution_id)
    place = tmp_path / "sessions"
    work = place / str(earlier.id) / "work"
    (work / "kept.txt").write_text("kept")
    (work / "door").symlink_to("/etc")
    os.mkfifo(work / "pipe")

    fork = next_context(context, session=False)
    forked = claude_job(
        "[remember] Who am I?", session=earlier, options=RunOptions(fork_session=True)
    )
    assert await runner.run(forked, fork) == Completed("We met.")
    later = next_context(context, session=True)
    assert await runner.run(claude_job("[remember] And now?", session=earlier), later) == Completed(
        "We met."
    )

    copied = place / str(fork.session_id) / "work"
    assert sorted(each.name for each in copied.iterdir()) == ["door", "kept.txt"]
    assert (copied / "kept.txt").read_text() == "kept"
    assert (copied / "door").is_symlink(), "a link is copied as a link"
    assert fork.external_id not in {None, earlier.external_id}
    assert later.external_id == earlier.external_id
    assert len(later.calls) == 1, "only what this execution asked for is charged to it"


async def test_a_conversation_goes_on_on_another_machine(
    runner: ClaudeRunner, context: RecordingContext, tmp_path: Path
) -> None:
    """The same after the first machine is gone, and for a fork, which a third one continues."""
    job = claude_job("[plain] Hello.")
    await runner.run(job, context)
    earlier = session_of(context, job.execution_id)
    shutil.rmtree(tmp_path / "sessions")
    second = replace(runner, sessions_root=tmp_path / "second")
    later = next_context(context, session=True)
    asked = claude_job("[remember] Who am I?", session=earlier)
    assert await second.run(asked, later) == Completed("We met.")
    fork = next_context(context, session=False)
    options = RunOptions(fork_session=True)
    forked = claude_job("[remember] Who am I?", session=earlier, options=options)
    third = replace(runner, sessions_root=tmp_path / "third")
    assert await third.run(forked, fork) == Completed("We met.")
    shutil.rmtree(tmp_path / "third")
    again = claude_job("[remember] Yes?", session=session_of(fork, forked.execution_id))
    assert await runner.run(again, next_context(fork, session=True)) == Completed("We met.")


async def test_what_another_machine_has_continued_replaces_a_longer_copy(
    runner: ClaudeRunner, context: RecordingContext, tmp_path: Path
) -> None:
    job = claude_job("[plain] Hello.")
    await runner.run(job, context)
    (copy,) = (tmp_path / "sessions").glob("*/config/projects/*/*.jsonl")
    # lines of an attempt that was lost before they could be stored
    line = json.dumps({"type": "user", "uuid": str(uuid4())}, separators=(",", ":"))
    lost = copy.read_text() + f"{line}\n" * 200
    copy.write_text(lost)
    second = replace(runner, sessions_root=tmp_path / "second")
    asked = claude_job("[remember] Who am I?", session=session_of(context, job.execution_id))
    await second.run(asked, next_context(context, session=True))

    assert await runner.run(asked, next_context(context, session=True)) == Completed("We met.")
    assert line not in copy.read_text()
    kept = copy.stat().st_ino
    assert await runner.run(asked, next_context(context, session=True)) == Completed("We met.")
    assert copy.stat().st_ino == kept, "what has all that is stored is left as it is"


async def test_a_session_without_its_files_is_reported(
    runner: ClaudeRunner, context: RecordingContext
) -> None:
    context.external_id = str(uuid4())
    gone = session_of(context, uuid4())

    with pytest.raises(SessionUnavailableError, match="not stored"):
        await runner.run(claude_job("[plain]", session=gone), context)
    with pytest.raises(SessionUnavailableError, match="llm"):
        await runner.run(claude_job("[plain]", session=replace(gone, runner="llm")), context)


class ThirdCallMustWait(RecordingContext):
    """Gives leave for two calls."""

    async def admit(self, call: CallEstimate) -> Reservation | None:
        if len(self.planned) == 2:
            raise MustWaitError(Parked(WaitingFor.PROVIDER_LIMIT, "Too many requests.", seconds=9))
        return await super().admit(call)


async def test_a_run_that_must_wait_goes_on_where_it_stopped(
    runner: ClaudeRunner, anthropic: AnthropicServer, tmp_path: Path
) -> None:
    context = ThirdCallMustWait(tmp_path)
    job = claude_job("[work] Note it.", allowed_tools=("Read", "Write"))

    with pytest.raises(MustWaitError):
        await runner.run(job, context)
    assert len(anthropic.received) == 2
    resumed = next_context(context, session=True)
    outcome = await runner.run(
        replace(job, attempt=2, session=session_of(context, job.execution_id)), resumed
    )

    assert isinstance(outcome, Completed)
    assert "forty-two" in outcome.result
    assert len(anthropic.received) == 3, "nothing was asked twice"
    assert [kind for kind, _ in resumed.events if kind is EventType.TOOL_CALL] == []


async def test_a_run_that_was_handed_back_goes_on(
    runner: ClaudeRunner, context: RecordingContext, tmp_path: Path
) -> None:
    job = claude_job("[shell] |echo begun >> begun; sleep 300|", allowed_tools=("Bash",))
    begun = tmp_path / "sessions" / str(context.session_id) / "work" / "begun"
    run = asyncio.create_task(runner.run(job, context))
    await asyncio.to_thread(wait_until, begun.exists, "the command runs")
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run

    again = replace(job, attempt=2, session=session_of(context, job.execution_id))
    outcome = await runner.run(again, next_context(context, session=True))

    assert isinstance(outcome, Completed), "it reads that its command was cut off, and ends"
    assert begun.read_text() == "begun\n"


async def test_a_failed_attempt_is_begun_anew(
    runner: ClaudeRunner, context: RecordingContext, anthropic: AnthropicServer
) -> None:
    job = claude_job("[limited]")
    with pytest.raises(ProviderRateLimitedError):
        await runner.run(job, context)

    again = replace(job, attempt=2, prompt="[plain]", session=session_of(context, job.execution_id))
    outcome = await runner.run(again, next_context(context, session=True))

    assert outcome == Completed("Hello there.")
    assert not anthropic.received[-1].said("[limited]")
