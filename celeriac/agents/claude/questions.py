"""What a person is asked for a tool call, and what their answer makes of the call.

Most calls are asked about as calls. `AskUserQuestion`, Claude Code's own tool to ask people,
becomes a form with a field for each of its questions.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from celeriac.agents.base import clip
from celeriac.agents.mcp.results import clean
from celeriac.domain.agent import ApprovalPolicy
from celeriac.domain.approval import Answer, Question, QuestionKind
from celeriac.kit.jsontypes import storable_text

ASK_TOOL = "AskUserQuestion"

_LONGEST_TITLE = 500

Arguments = Mapping[str, Any]


def question_of(
    tool: str, arguments: Arguments, *, key: str, agent_name: str, policy: ApprovalPolicy
) -> Question:
    """Return what is asked; `key` stands for this very call."""
    asked = dict(_questions(arguments)) if tool == ASK_TOOL else {}
    title = " ".join(asked) or f"May the agent {agent_name} use {tool}?"
    return Question(
        key=key,
        kind=QuestionKind.FORM if asked else QuestionKind.TOOL,
        title=clip(storable_text(title), _LONGEST_TITLE),
        tool=storable_text(tool),
        arguments=clean(dict(arguments)),
        schema=_form(asked) if asked else None,
        expires_seconds=policy.expires_seconds,
        on_expiry=policy.on_expiry,
    )


def refusal_of(tool: str, answer: Answer) -> str:
    """Return what the agent is told where a call is not made, or an empty text."""
    note = f" They say: {answer.note}" if answer.note else ""
    if tool == ASK_TOOL:
        if answer.approved and isinstance(answer.value, dict):
            return ""
        return f"Nobody answers the question. Decide by yourself.{note}"
    return "" if answer.approved else f"A person refused this call.{note}"


def changed_arguments(tool: str, arguments: Arguments, answer: Answer) -> dict[str, Any] | None:
    """Return the arguments that an approved call is made with; None: its own."""
    if not isinstance(answer.value, dict):
        return None
    if tool != ASK_TOOL:
        return answer.value
    answers = {
        question: ", ".join(map(str, value)) if isinstance(value, list) else str(value)
        for question, value in answer.value.items()
    }
    return {**arguments, "answers": answers}


def _questions(arguments: Arguments) -> Iterator[tuple[str, Mapping[str, Any]]]:
    questions = arguments.get("questions")
    for each in questions if isinstance(questions, list) else ():
        if isinstance(each, dict) and isinstance(each.get("question"), str):
            yield storable_text(each["question"]), clean(each)


def _form(asked: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return the schema of a form; the offered answers are examples, others may be given."""
    return {
        "type": "object",
        "properties": {question: _field(each) for question, each in asked.items()},
        "required": list(asked),
        "additionalProperties": False,
    }


def _field(question: Mapping[str, Any]) -> dict[str, Any]:
    options = [each for each in question.get("options") or () if isinstance(each, dict)]
    text: dict[str, Any] = {
        "type": "string",
        "examples": [str(each.get("label")) for each in options],
    }
    about = "; ".join(f"{each.get('label')}: {each.get('description', '')}" for each in options)
    field = {"type": "array", "items": text} if question.get("multiSelect") else text
    return {"title": str(question.get("header") or ""), "description": about, **field}
