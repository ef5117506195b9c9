"""Answering a question step by step, on a terminal."""

from typing import TYPE_CHECKING, Any

import typer

from celeriac.cli.approvals import facts
from celeriac.cli.exits import UsageProblemError
from celeriac.cli.formatting import plain, printable
from celeriac.cli.session import Session
from celeriac.cli.variables import parse_json
from celeriac.domain.approval_states import QuestionKind
from celeriac.domain.forms import FormField, form_fields
from celeriac.kit.jsontypes import dumps

if TYPE_CHECKING:
    from celeriac.wire import Approval

_DECISIONS = {
    QuestionKind.TOOL: "Approve it?",
    QuestionKind.QUESTION: "Answer it?",
    QuestionKind.FORM: "Answer it?",
    QuestionKind.BUDGET: "Allow more?",
}


def answer_step_by_step(session: Session, asked: "Approval", note: str) -> "Approval":
    """Show a question, ask the person, and send the answer; again where it doesn't fit.

    Raises ClientError; Ctrl-C sends nothing.
    """
    from celeriac.client import ClientError

    for name, fact in facts(asked).items():
        session.output.say(f"{name + ':':<12} {fact}")
    approved = typer.confirm(_DECISIONS[asked.kind], err=True)
    while True:
        try:
            value = _value(session, asked) if approved else None
            note = note or typer.prompt("Note to the agent", "", show_default=False, err=True)
            return session.client.approvals.answer(
                asked.id, approved=approved, value=value, note=note
            )
        except UsageProblemError as error:
            session.output.say(error.message)
        except ClientError as error:
            if error.code != "answer_invalid":
                raise
            session.output.say(error.message)


def _value(session: Session, asked: "Approval") -> Any:
    if asked.kind is QuestionKind.QUESTION:
        return typer.prompt("Answer", err=True)
    if asked.kind is QuestionKind.TOOL:
        if not typer.confirm("Change the arguments?", default=False, err=True):
            return None
        text = typer.prompt("Arguments as JSON", dumps(asked.arguments), err=True)
        return parse_json(text, "Arguments")
    fields = form_fields(asked.answer_schema or {})
    if not fields:
        return parse_json(typer.prompt("Answer as JSON", err=True), "Answer")
    written = {field.name: _ask(session, field) for field in fields}
    value = {
        field.name: field.chosen(written[field.name]) for field in fields if written[field.name]
    }
    return None if not value and asked.kind is QuestionKind.BUDGET else value


def _ask(session: Session, field: FormField) -> str:
    """Return what a person wrote for a field; empty where they left out what may be left out."""
    if field.hint:
        session.output.say(field.hint)
    if field.allowed and not field.choices:
        session.output.say(f"  {field.allowed}{'' if field.required else '; may be left out'}")
    label = printable(field.label)
    if field.choices:
        label += f" ({', '.join(printable(plain(each)) for each in field.choices)})"
    if field.required and not field.default:
        return str(typer.prompt(label, err=True))
    shown = bool(field.default)
    return str(typer.prompt(label, printable(field.default), show_default=shown, err=True))
