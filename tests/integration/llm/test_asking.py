"""Calls that wait for a person: parked with their questions, gone on with from the answers."""

from typing import Any

import pytest

from celeriac.agents.llm.runner import LlmRunner
from celeriac.domain.agents import ApprovalPolicy, McpServer
from celeriac.domain.approvals import Answer, OnExpiry, QuestionKind
from celeriac.domain.executions.events import EventType
from celeriac.domain.executions.states import WaitingFor
from tests.support.llm_jobs import TICKET_SCHEMA, llm_job, next_attempt, parked_of, result_of
from tests.support.model_scenes import TICKET
from tests.support.model_server import ModelServer
from tests.support.run_context import RecordingContext

pytestmark = pytest.mark.anyio

NOTE = 'desk__note {"text": "mine"}'


def guarded(*patterns: str) -> dict[str, Any]:
    """The agent's fields for tools of which those that match wait for approval."""
    return {"mcp_servers": (McpServer(name="desk", approve_tools=patterns),)}


def notes(context: RecordingContext) -> list[str]:
    """What the tool `note` has written, without the keys."""
    place = context.workdir / "notes"
    return [line.split()[0] for line in place.read_text().splitlines()] if place.exists() else []


async def test_a_call_that_needs_approval_parks_the_attempt_and_is_made_once_it_is_given(
    runner: LlmRunner, context: RecordingContext, model_server: ModelServer
) -> None:
    policy = ApprovalPolicy(expires_seconds=60, on_expiry=OnExpiry.FAIL)
    job = llm_job(f"use {NOTE}", **guarded("no*"), approvals=policy)

    parked = parked_of(await runner.run(job, context))

    (question,) = parked.questions
    assert parked.reason is WaitingFor.APPROVAL
    assert parked.note == "May the agent tester call desk__note?"
    assert (question.kind, question.key) == (QuestionKind.TOOL, "1:call_1")
    assert (question.tool, question.arguments) == ("desk__note", {"text": "mine"})
    assert (question.expires_seconds, question.on_expiry) == (60, OnExpiry.FAIL)
    assert notes(context) == [], "nothing was called yet"

    context.given = {question.key: Answer(approved=True)}
    outcome = await runner.run(next_attempt(job, context), context)

    assert result_of(outcome) == "noted mine"
    assert notes(context) == ["mine"]
    assert len(model_server.received) == 2, "the model was not asked the same again"


@pytest.mark.parametrize(
    ("answer", "result", "written"),
    [
        (Answer(approved=True, value={"text": "yours"}), "noted yours", ["yours"]),
        (Answer(approved=False), "The call was not approved.", []),
        (
            Answer(approved=False, note="Ask me tomorrow."),
            "The call was not approved. They say: Ask me tomorrow.",
            [],
        ),
        (Answer(approved=True, value={"words": 1}), "The arguments don't fit the tool", []),
    ],
    ids=["changed", "denied", "denied-with-a-note", "changed-wrongly"],
)
async def test_a_person_may_change_a_call_or_deny_it(
    runner: LlmRunner, context: RecordingContext, answer: Answer, result: str, written: list[str]
) -> None:
    job = llm_job(f"use {NOTE}", **guarded("note"))
    (question,) = parked_of(await runner.run(job, context)).questions

    context.given = {question.key: answer}
    outcome = await runner.run(next_attempt(job, context), context)

    assert result in result_of(outcome)
    assert notes(context) == written
    denied = [data for kind, data in context.events if kind is EventType.TOOL_DENIED]
    assert [each["tool"] for each in denied] == ([] if answer.approved else ["desk__note"])


async def test_calls_beside_one_that_waits_are_made_once(
    runner: LlmRunner, context: RecordingContext
) -> None:
    job = llm_job(f"both {NOTE} / desk__ring {{}}", **guarded("ring"))
    (question,) = parked_of(await runner.run(job, context)).questions
    assert question.tool == "desk__ring"

    context.given = {question.key: Answer(approved=True)}
    outcome = await runner.run(next_attempt(job, context), context)

    assert result_of(outcome) == "noted mine; rang"
    assert notes(context) == ["mine"]
    calls = [data["tool"] for kind, data in context.events if kind is EventType.TOOL_CALL]
    assert calls == ["note", "ring"]


async def test_an_attempt_that_lacks_an_answer_asks_the_same_again(
    runner: LlmRunner, context: RecordingContext, model_server: ModelServer
) -> None:
    job = llm_job(f"both {NOTE} / desk__ring {{}}", **guarded("*"))
    first = parked_of(await runner.run(job, context))
    assert [question.tool for question in first.questions] == ["desk__note", "desk__ring"]
    assert first.note.endswith("And 1 more.")

    context.given = {first.questions[0].key: Answer(approved=True)}
    second = parked_of(await runner.run(next_attempt(job, context), context))

    assert second == first
    assert len(model_server.received) == 1
    assert notes(context) == []


async def test_questions_have_keys_of_their_own_though_the_provider_repeats_its_ids(
    runner: LlmRunner, context: RecordingContext
) -> None:
    job = llm_job(f"use {NOTE} / {NOTE}", **guarded("note"))
    keys = []
    outcome = await runner.run(job, context)
    for _ in range(2):
        (question,) = parked_of(outcome).questions
        keys.append(question.key)
        context.given[question.key] = Answer(approved=True)
        outcome = await runner.run(next_attempt(job, context), context)

    assert result_of(outcome) == "noted mine; noted mine"
    assert keys == ["1:call_1", "2:call_1"]
    assert notes(context) == ["mine", "mine"]


@pytest.mark.parametrize(
    ("answer", "result"),
    [
        (Answer(approved=True, value="billing"), "billing"),
        (Answer(approved=True), "Yes."),
        (Answer(approved=True, note="Take billing."), "Take billing."),
        (Answer(approved=False), "Nobody answers the question."),
        (Answer(approved=False, note="Guess."), "Nobody answers the question. They say: Guess."),
    ],
)
async def test_a_model_asks_a_person(
    runner: LlmRunner, context: RecordingContext, answer: Answer, result: str
) -> None:
    job = llm_job('use ask_person {"question": "Which category?"}', may_ask=True)
    (question,) = parked_of(await runner.run(job, context)).questions
    assert (question.kind, question.title) == (QuestionKind.QUESTION, "Which category?")

    context.given = {question.key: answer}
    outcome = await runner.run(next_attempt(job, context), context)

    assert result in result_of(outcome)


async def test_an_answer_becomes_part_of_structured_output(
    runner: LlmRunner, context: RecordingContext
) -> None:
    job = llm_job("ticket", schema=TICKET_SCHEMA, may_ask=True)
    (question,) = parked_of(await runner.run(job, context)).questions

    context.given = {question.key: Answer(approved=True, value="outage")}
    outcome = await runner.run(next_attempt(job, context), context)

    assert result_of(outcome) == {**TICKET, "category": "outage"}


async def test_a_form_is_asked_with_its_schema(
    runner: LlmRunner, context: RecordingContext
) -> None:
    form = '{"type": "object", "properties": {"days": {"type": "integer"}}}'
    job = llm_job(f'use ask_person {{"question": "How long?", "form": {form}}}', may_ask=True)
    (question,) = parked_of(await runner.run(job, context)).questions
    assert question.kind is QuestionKind.FORM
    assert question.schema == {"type": "object", "properties": {"days": {"type": "integer"}}}

    context.given = {question.key: Answer(approved=True, value={"days": 3})}
    outcome = await runner.run(next_attempt(job, context), context)

    assert result_of(outcome) == '{"days":3}'


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ('{"question": " "}', "The question must have between 1 and 4000 characters."),
        ('{"question": "What?", "form": {"type": "strange"}}', "form is not a valid JSON Schema"),
    ],
)
async def test_a_question_that_nobody_could_answer_is_not_asked(
    runner: LlmRunner, context: RecordingContext, arguments: str, told: str
) -> None:
    outcome = await runner.run(llm_job(f"use ask_person {arguments}", may_ask=True), context)

    assert told in result_of(outcome)


async def test_an_agent_that_may_not_ask_has_no_tool_for_it(
    runner: LlmRunner, context: RecordingContext, model_server: ModelServer
) -> None:
    await runner.run(llm_job("plain"), context)

    assert "tools" not in model_server.received[0].body
