"""Functions that ask people: on the loop and in a child process."""

import asyncio
import os

import pytest

from celeriac.agents.models import Prices, Providers, price_by_name
from celeriac.domain.approvals import Answer, OnExpiry, Question, QuestionKind
from celeriac.domain.errors import ApprovalExpiredError
from celeriac.domain.executions.model import Completed
from celeriac.domain.tasks import Limits
from tests.support.confined import confined
from tests.support.run_context import LateContext, RecordingContext, command_job, python_job
from tests.support.runners import CommandRunner, PythonRunner

pytestmark = pytest.mark.anyio


class Answering(RecordingContext):
    """Answers every question once two are open, the later one first."""

    async def ask(self, question: Question) -> Answer:
        self.questions.append(question)
        if question.key == "nobody":
            await asyncio.Event().wait()
        if question.kind is QuestionKind.TOOL:
            return Answer(approved=True, value={"to": "eve@example.com"})
        return Answer(approved=True, value="for a reason", note="n", by="Ada")


@pytest.mark.parametrize("function", ["ask_on_loop", "ask_in_child"])
async def test_a_function_asks_and_goes_on_with_the_answers(
    runner: PythonRunner, context: RecordingContext, function: str
) -> None:
    context = Answering(context.workdir)

    outcome = await runner.run(python_job(function, mail="ada@example.com"), context)

    assert outcome.result == {
        "approved": True,
        "to": {"to": "eve@example.com"},
        "why": "for a reason",
    }
    asked = {question.kind: question for question in context.questions}
    tool = asked[QuestionKind.TOOL]
    assert (tool.tool, tool.arguments) == ("send_mail", {"to": "ada@example.com"})
    assert asked[QuestionKind.QUESTION].key == "why"
    assert (tool.expires_seconds, tool.on_expiry) == (86_400, OnExpiry.DENY), "the agent's policy"


async def test_both_kinds_of_functions_give_a_question_the_same_key_each_time(
    runner: PythonRunner, context: RecordingContext
) -> None:
    keys = set()
    for function in ("ask_on_loop", "ask_in_child"):
        answering = Answering(context.workdir)
        await runner.run(python_job(function, mail="ada@example.com"), answering)
        keys |= {q.key for q in answering.questions if q.kind is QuestionKind.TOOL}

    assert len(keys) == 1


async def test_a_question_whose_expiry_fails_ends_the_attempt_of_a_child(
    runner: PythonRunner, context: RecordingContext
) -> None:
    class Expiring(RecordingContext):
        async def ask(self, question: Question) -> Answer:
            raise ApprovalExpiredError(f"Nobody answered {question.title}")

    with pytest.raises(ApprovalExpiredError, match="Is anybody there"):
        await runner.run(python_job("ask_for_ever"), Expiring(context.workdir))


async def test_the_soft_limit_reaches_a_child_that_waits_for_an_answer(
    runner: PythonRunner, context: RecordingContext
) -> None:
    limits = Limits(soft_seconds=2, hard_seconds=30, memory_mb=256)
    waiting = Answering(context.workdir)
    waiting.time_limits.begin(limits)  # no question is stored: the time does not stand still

    async with waiting.time_limits.soft():
        outcome = await runner.run(python_job("ask_for_ever", limits=limits), waiting)

    assert outcome.result == "nobody was there"
    assert [question.key for question in waiting.questions] == ["nobody"]


@pytest.mark.parametrize("function", ["ask_on_loop", "ask_in_child"])
async def test_a_question_outlives_the_soft_and_the_hard_limit(
    runner: PythonRunner, context: RecordingContext, function: str
) -> None:
    limits = Limits(soft_seconds=1.8, hard_seconds=2, memory_mb=256)
    late = LateContext(context.workdir, limits)

    outcome = await late.run(runner, python_job(function, mail="a@b.example", limits=limits))

    assert isinstance(outcome, Completed)
    assert isinstance(outcome.result, dict)
    assert outcome.result["why"] == "why"
    assert not late.time_limits.soft_passed


_PROGRAM = """read start
echo '{"type": "ask", "key": "why", "kind": "question", "title": "Why?"}'
read answer
printf '{"type": "result", "value": %s}\\n' "$answer"
"""


async def test_a_programs_question_outlives_its_limits_too(context: RecordingContext) -> None:
    limits = Limits(soft_seconds=1.8, hard_seconds=2, memory_mb=256)
    bounds = confined({"PATH": os.environ["PATH"]})
    price = price_by_name(Providers([]), Prices({}))
    runner = CommandRunner(commands={"shell": ["sh", "-c"]}, confinement=bounds, price=price)
    job = command_job("shell", _PROGRAM, limits=limits)
    late = LateContext(context.workdir, limits)

    outcome = await late.run(runner, job)

    assert isinstance(outcome, Completed)
    assert isinstance(outcome.result, dict)
    assert outcome.result["value"] == "why"
    assert 0 < outcome.result["seconds_left"] <= 2, "the answer has the new limit"
    assert not late.time_limits.soft_passed
    going = LateContext(context.workdir, limits, stands_still=False)
    ended = await going.run(runner, job)
    assert ended == Completed({"type": "soft_limit"}), "its time runs again"
