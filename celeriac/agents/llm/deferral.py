"""Calls that wait for a person: from a model's calls to questions, and from answers to results."""

from collections.abc import Mapping, Sequence

from pydantic_ai import DeferredToolRequests, DeferredToolResults, ToolFailed
from pydantic_ai.messages import ModelMessage, ModelResponse, ToolCallPart
from pydantic_ai.tools import DeferredToolApprovalResult, ToolApproved, ToolDenied

from celeriac.agents.base import clip
from celeriac.agents.llm.conversation import Pending, PendingKind
from celeriac.agents.llm.person import MAX_QUESTION
from celeriac.agents.mcp.results import clean, readable
from celeriac.domain.agent import ApprovalPolicy
from celeriac.domain.approval import Answer, Question, QuestionKind
from celeriac.domain.outcome import Parked, WaitingFor
from celeriac.kit.jsontypes import JsonValue, dumps


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


def _question(pending: Pending, call: ToolCallPart, agent: str, policy: ApprovalPolicy) -> Question:
    arguments = clean(call.args_as_dict())
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
        title=clip(readable(arguments["question"]), MAX_QUESTION),
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
