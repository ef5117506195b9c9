"""Approvals of an `llm` run: the tool that asks a person, and calls that wait for an answer."""

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic_ai import CallDeferred, DeferredToolRequests, DeferredToolResults, ToolFailed
from pydantic_ai.messages import ModelMessage, ModelResponse, ToolCallPart
from pydantic_ai.tools import DeferredToolApprovalResult, ToolApproved, ToolDenied
from pydantic_ai.toolsets import FunctionToolset

from celeriac.agents.llm.conversation import Pending, PendingKind
from celeriac.agents.mcp.results import sanitize_json, sanitize_text
from celeriac.domain.agents import ApprovalPolicy
from celeriac.domain.approvals import Answer, Question, QuestionKind
from celeriac.domain.errors import SchemaInvalidError
from celeriac.domain.executions.events import EventType
from celeriac.domain.executions.model import Parked
from celeriac.domain.executions.states import WaitingFor
from celeriac.domain.schemas import check_schema
from celeriac.kit.json_types import JsonObject, JsonValue, dumps
from celeriac.kit.text import clip
from celeriac.kit.threads import CHECKS
from celeriac.services.ports import RunContext

MAX_QUESTION = 4_000
"""Characters of a question."""


def person_tools(*, retries: int) -> FunctionToolset[None]:
    """Return the tool `ask_person`; a model may call it with wrong arguments `retries` times."""
    return FunctionToolset([ask_person], id="person", max_retries=retries)


async def ask_person(question: str, form: dict[str, Any] | None = None) -> str:
    """Ask a person a question and get the answer. It may take long: ask only what you must know.

    Args:
        question: What to ask; it must be understood without this conversation.
        form: JSON schema of the answer, where it must be more than a text.
    """
    if not question.strip() or len(question) > MAX_QUESTION:
        raise ToolFailed(f"The question must have between 1 and {MAX_QUESTION} characters.")
    if form is not None:
        try:
            await CHECKS.run(check_schema, sanitize_json(form), field="form")
        except SchemaInvalidError as error:
            raise ToolFailed(error.message) from error
    raise CallDeferred(kind="question")


def pending_of(
    requests: DeferredToolRequests, messages: Sequence[ModelMessage]
) -> tuple[Pending, ...]:
    """Return the calls that wait in the last answer of `messages`.

    The questions' keys are unique within a conversation, although some providers number their
    calls anew in each answer.
    """
    answers = sum(isinstance(message, ModelResponse) for message in messages)

    def pending(call: ToolCallPart, kind: PendingKind) -> Pending:
        return Pending(key=f"{answers}:{call.tool_call_id}", call_id=call.tool_call_id, kind=kind)

    return (
        *(pending(call, "approval") for call in requests.approvals),
        *(pending(call, "question") for call in requests.calls),
    )


def parked(
    pending: Sequence[Pending],
    messages: Sequence[ModelMessage],
    *,
    agent: str,
    policy: ApprovalPolicy,
) -> Parked:
    """Return the outcome that asks a person about the calls that wait."""
    calls = _calls(messages)
    questions = tuple(_question(each, calls[each.call_id], agent, policy) for each in pending)
    note = questions[0].title
    if len(questions) > 1:
        note = f"{note} And {len(questions) - 1} more."
    return Parked(WaitingFor.APPROVAL, note=clip(note, 500), questions=questions)


def results_of(
    pending: Sequence[Pending], answers: Mapping[str, Answer]
) -> DeferredToolResults | None:
    """Return what people answered, as the library takes it; None where an answer is missing."""
    if any(each.key not in answers for each in pending):
        return None
    results = DeferredToolResults()
    for each in pending:
        answer = answers[each.key]
        if each.kind == "approval":
            results.approvals[each.call_id] = _approval(answer)
        else:
            results.calls[each.call_id] = _reply(answer)
    return results


async def record_denials(
    context: RunContext,
    pending: Sequence[Pending],
    answers: Mapping[str, Answer],
    messages: Sequence[ModelMessage],
) -> None:
    """Record the calls that people did not allow, as events."""
    calls = _calls(messages)
    for each in pending:
        answer = answers[each.key]
        if each.kind != "approval" or answer.approved:
            continue
        denied: JsonObject = {
            "id": each.call_id,
            "tool": calls[each.call_id].tool_name,
            "reason": f"A person denied this call.{_noted(answer)}",
        }
        await context.emit(EventType.TOOL_DENIED, denied)


def _question(pending: Pending, call: ToolCallPart, agent: str, policy: ApprovalPolicy) -> Question:
    arguments = sanitize_json(call.args_as_dict())
    if pending.kind == "approval":
        return Question(
            key=pending.key,
            kind=QuestionKind.TOOL,
            title=f"May the agent {agent} call {call.tool_name}?",
            tool=call.tool_name,
            arguments=arguments,
            expires_seconds=policy.expires_seconds,
            on_expiry=policy.on_expiry,
        )
    form = arguments.get("form")
    return Question(
        key=pending.key,
        kind=QuestionKind.QUESTION if form is None else QuestionKind.FORM,
        title=clip(sanitize_text(arguments["question"]), MAX_QUESTION),
        schema=form,
        expires_seconds=policy.expires_seconds,
        on_expiry=policy.on_expiry,
    )


def _approval(answer: Answer) -> DeferredToolApprovalResult:
    if not answer.approved:
        return ToolDenied(f"The call was not approved.{_noted(answer)}")
    return ToolApproved(override_args=answer.value if isinstance(answer.value, dict) else None)


def _reply(answer: Answer) -> JsonValue:
    if not answer.approved:
        return ToolFailed(f"Nobody answers the question.{_noted(answer)}")
    if answer.value is None:
        return answer.note or "Yes."
    return answer.value if isinstance(answer.value, str) else dumps(answer.value)


def _noted(answer: Answer) -> str:
    return f" They say: {answer.note}" if answer.note else ""


def _calls(messages: Sequence[ModelMessage]) -> dict[str, ToolCallPart]:
    """Return the calls of the last answer by their ids."""
    for message in reversed(messages):
        if isinstance(message, ModelResponse):
            return {call.tool_call_id: call for call in message.tool_calls}
    return {}
