"""Tool calls: judged by the agent's rules, then by a person, who need not hurry."""

import asyncio
import os
from dataclasses import replace
from pathlib import Path

import pytest

from celeriac.agents.claude.runner import ClaudeRunner
from celeriac.domain.approvals import Answer, Question, QuestionKind
from celeriac.domain.executions.events import EventType
from celeriac.domain.executions.model import Completed, Parked
from celeriac.domain.executions.states import WaitingFor
from celeriac.domain.tasks import Limits
from celeriac.domain.usage import CallEstimate, Reservation
from celeriac.kit.json_types import JsonValue, loads
from celeriac.services.catalog.schemas import violations
from celeriac.services.ports import Job
from tests.support.anthropic_server import AnthropicServer
from tests.support.claude_jobs import claude_job, session_of
from tests.support.run_context import LateContext, RecordingContext
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.anyio, pytest.mark.requirement("A12")]


async def parked(runner: ClaudeRunner, context: RecordingContext, job: Job) -> Question:
    """Run until a person is asked, and return the question."""
    outcome = await runner.run(job, context)
    assert isinstance(outcome, Parked)
    assert outcome.reason is WaitingFor.APPROVAL
    (question,) = outcome.questions
    return question


async def resumed(
    runner: ClaudeRunner, context: RecordingContext, job: Job, key: str, answer: Answer
) -> str:
    """Run the attempt that follows `answer`, as another worker would; return its result."""
    following = RecordingContext(context.workdir)
    following.session_id = context.session_id
    following.given = {key: answer}
    again = replace(job, attempt=2, session=session_of(context, job.execution_id))
    outcome = await runner.run(again, following)
    assert isinstance(outcome, Completed)
    context.events.extend(following.events)
    return str(outcome.result)


async def test_an_approved_call_is_made_once_by_the_attempt_that_follows(
    runner: ClaudeRunner, context: RecordingContext, anthropic: AnthropicServer, tmp_path: Path
) -> None:
    job = claude_job("[shell] |echo ran >> runs.txt; cat runs.txt|", permission="ask")

    question = await parked(runner, context, job)
    assert question.kind is QuestionKind.TOOL
    assert question.tool == "Bash"
    assert question.arguments == {"command": "echo ran >> runs.txt; cat runs.txt"}
    runs = tmp_path / "sessions" / str(context.session_id) / "work" / "runs.txt"
    assert not runs.exists(), "nothing runs before the answer"
    result = await resumed(runner, context, job, question.key, Answer(approved=True))

    assert result.strip() == "ran"
    assert runs.read_text() == "ran\n"
    assert len(anthropic.received) == 2, "the question costs no model call"
    (call,) = (data for kind, data in context.events if kind is EventType.TOOL_CALL)
    (answered,) = (data for kind, data in context.events if kind is EventType.TOOL_RESULT)
    assert (answered["id"], answered["tool"]) == (call["id"], "Bash")


async def test_a_refused_call_is_not_made_and_the_agent_is_told_why(
    runner: ClaudeRunner, context: RecordingContext
) -> None:
    job = claude_job("[shell] |echo only reads|", permission="ask")

    question = await parked(runner, context, job)

    no = Answer(approved=False, note="Not on a Sunday.")
    assert "Not on a Sunday." in await resumed(runner, context, job, question.key, no)


async def test_an_agent_asks_a_person_and_goes_on_with_the_answer(
    runner: ClaudeRunner, context: RecordingContext
) -> None:
    job = claude_job("[question] Plan it.", tools=("AskUserQuestion",))

    asked = await parked(runner, context, job)
    assert (asked.kind, asked.title) == (QuestionKind.FORM, "Which day?")
    assert asked.schema is not None
    assert violations(asked.schema, {"Which day?": "Tuesday"}) == []
    assert violations(asked.schema, {"Which year?": "1789"})

    given = Answer(approved=True, value={"Which day?": "Tuesday"})
    assert '"Which day?"="Tuesday"' in await resumed(runner, context, job, asked.key, given)


async def test_a_tool_of_a_server_waits_although_it_is_allowed_and_a_person_changes_the_call(
    runner: ClaudeRunner, context: RecordingContext
) -> None:
    job = claude_job(
        "[tool] Add with |tools|.",
        mcp_servers=[{"name": "tools", "approve_tools": ["add"]}],
        allowed_tools=("mcp__tools__add",),
    )

    question = await parked(runner, context, job)

    assert question.arguments == {"a": 40, "b": 2}
    changed = Answer(approved=True, value={"a": 1000, "b": 2})
    assert "1002" in await resumed(runner, context, job, question.key, changed)


async def test_one_of_several_calls_is_asked_for_by_itself(
    runner: ClaudeRunner, context: RecordingContext
) -> None:
    job = claude_job("[pair] Both.", permission="ask")

    question = await parked(runner, context, job)

    assert question.arguments == {"command": "echo alone"}
    result = await resumed(runner, context, job, question.key, Answer(approved=True))
    assert result.strip() == "alone"


class Approving(RecordingContext):
    """A person approves at once."""

    async def ask(self, question: Question) -> Answer:
        self.questions.append(question)
        return Answer(approved=True)


async def test_one_of_several_calls_that_are_made_again_is_asked_for_in_place(
    runner: ClaudeRunner, context: RecordingContext
) -> None:
    approving = Approving(context.workdir)

    outcome = await runner.run(claude_job("[stubborn]", permission="ask"), approving)

    assert isinstance(outcome, Completed)
    assert "asked in place" in outcome.result
    assert [question.tool for question in approving.questions] == ["Bash"]


async def test_a_call_asked_in_place_is_not_ended_by_the_limits(
    runner: ClaudeRunner, context: RecordingContext
) -> None:
    limits = Limits(soft_seconds=20, hard_seconds=21)
    late = LateAnswers(context.workdir, limits)
    job = replace(claude_job("[stubborn]", permission="ask"), limits=limits)

    outcome = await late.run(runner, job)

    assert isinstance(outcome, Completed)
    assert "asked in place" in outcome.result
    assert len(late.questions) == 1
    assert not late.time_limits.soft_passed


class LateAnswers(LateContext):
    """People are late, budgets are not."""

    async def admit(self, call: CallEstimate) -> Reservation | None:
        return await RecordingContext.admit(self, call)


class Unanswered(RecordingContext):
    """Nobody answers; keeps what is stored of the session when the first question is asked."""

    stored: JsonValue = None

    async def ask(self, question: Question) -> Answer:
        self.questions.append(question)
        self.stored = self.state
        await asyncio.Event().wait()
        raise AssertionError


@pytest.mark.parametrize("killed", [True, False], ids=["killed", "handed back"])
async def test_the_attempt_after_a_kill_finds_the_question_again(
    runner: ClaudeRunner, context: RecordingContext, killed: bool
) -> None:
    job = claude_job("[stubborn]", permission="ask")
    waiting = Unanswered(context.workdir)
    run = asyncio.create_task(runner.run(job, waiting))
    await asyncio.to_thread(wait_until, lambda: waiting.questions, "it asks")
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run
    if killed:  # a killed worker stores nothing at its end
        waiting.state = waiting.stored
    session = session_of(waiting, job.execution_id)
    (question,) = waiting.questions

    again = Approving(context.workdir)
    again.session_id, again.external_id = waiting.session_id, waiting.external_id
    outcome = await runner.run(replace(job, attempt=2, session=session), again)

    assert isinstance(outcome, Completed)
    assert {each.key for each in again.questions} == {question.key}


async def test_an_answer_that_came_after_a_kill_is_followed_and_not_asked_for_again(
    runner: ClaudeRunner, context: RecordingContext
) -> None:
    job = claude_job("[shell] |echo ran|", permission="ask")
    question = await parked(runner, context, job)
    begun_anew = RecordingContext(context.workdir / "other")
    begun_anew.given = {question.key: Answer(approved=True)}

    outcome = await runner.run(replace(job, attempt=2), begun_anew)

    assert isinstance(outcome, Completed)
    assert outcome.result.strip() == "ran"
    assert begun_anew.questions == []


async def test_file_tools_never_leave_the_working_directory(
    runner: ClaudeRunner, context: RecordingContext, tmp_path: Path
) -> None:
    work = tmp_path / "sessions" / str(context.session_id) / "work"
    work.mkdir(parents=True)
    (work / "door").symlink_to("/etc")
    job = claude_job("[escape]", allowed_tools=("*",), tools=("Read", "Write", "Glob", "Grep"))

    outcome = await runner.run(job, context)

    assert isinstance(outcome, Completed)
    assert loads(outcome.result) == [True] * 6
    told = [data["content"] for kind, data in context.events if kind is EventType.TOOL_RESULT]
    assert all("working directory" in each for each in told), told
    assert not os.access("/tmp/celeriac-escaped", os.F_OK)


async def test_a_denial_beats_what_allows(runner: ClaudeRunner, context: RecordingContext) -> None:
    job = claude_job("[shell] |echo no|", allowed_tools=("*",), denied_tools=("Ba*",))

    outcome = await runner.run(job, context)

    assert isinstance(outcome, Completed)
    assert "may never use Bash" in outcome.result
    denied = [data for kind, data in context.events if kind is EventType.TOOL_DENIED]
    assert [(each["tool"], "may never use" in each["reason"]) for each in denied] == [
        ("Bash", True)
    ]
