"""The page with a question and the form for its answer."""

import hashlib
import json
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup
from starlette.responses import HTMLResponse

from celeriac.domain.approvals import Answer, Approval, ApprovalStatus, QuestionKind
from celeriac.domain.errors import AnswerInvalidError
from celeriac.domain.schemas.forms import FormFaultError, FormField, form_fields, form_value
from celeriac.kit.json_types import JsonValue, dumps, loads, refuse_big_integers
from celeriac.kit.text import printable

_PLAIN = (QuestionKind.TOOL, QuestionKind.STEP)
"""Kinds whose answer is only yes or no here."""

_VALUE = "value"
_PREFIX = "value."


@dataclass(frozen=True, slots=True)
class Input:
    """One input of the page's form."""

    name: str
    label: str
    given: str = ""
    hint: str = ""
    allowed: str = ""
    required: bool = False
    long: bool = False
    options: tuple[tuple[str, str], ...] = ()
    """Values and their labels; empty for free input."""


def inputs_of(approval: Approval, given: Mapping[str, str]) -> list[Input]:
    """Return the inputs of a question's form, with the values in `given`."""
    if approval.kind in _PLAIN:
        return []
    text = given.get(_VALUE, "")
    if approval.kind is QuestionKind.QUESTION:
        return [Input(_VALUE, "Answer", given=text, required=True, long=True)]
    schema = approval.schema or {}
    fields = form_fields(schema)
    if not fields:
        return [Input(_VALUE, "Answer as JSON", given=text, hint=dumps(schema), long=True)]
    return [_input(field, given) for field in fields]


def answer_of(approval: Approval, sent: Mapping[str, str]) -> Answer:
    """Return the answer in a sent form. Raises AnswerInvalidError, which names the field."""
    decision = sent.get("decision")
    if decision not in {"approve", "deny"}:
        raise AnswerInvalidError("Choose one of the buttons.", field="decision")
    note = sent.get("note", "")
    if decision == "deny":
        return Answer(approved=False, note=note)
    return Answer(approved=True, value=_value(approval, sent), note=note)


def _value(approval: Approval, sent: Mapping[str, str]) -> JsonValue:
    if approval.kind in _PLAIN:
        return None
    text = sent.get(_VALUE, "")
    if approval.kind is QuestionKind.QUESTION:
        return text.replace("\r\n", "\n").strip()
    schema = approval.schema or {}
    try:
        if not form_fields(schema):
            refuse_big_integers(text)
            return loads(text)
        written = {
            name.removeprefix(_PREFIX): value
            for name, value in sent.items()
            if name.startswith(_PREFIX)
        }
        return form_value(schema, written)
    except FormFaultError as error:
        raise AnswerInvalidError(f"{error}.", field=f"{_PREFIX}{error.name}") from error
    except (ValueError, TypeError) as error:
        raise AnswerInvalidError(f"The answer must be JSON: {error}.", field=_VALUE) from error


def _input(field: FormField, given: Mapping[str, str]) -> Input:
    options = tuple((dumps(choice), _label(choice)) for choice in field.choices)
    return Input(
        name=_PREFIX + field.name,
        label=field.label,
        hint=field.hint,
        allowed="" if field.choices else field.allowed,
        given=given.get(_PREFIX + field.name, field.default),
        required=field.required,
        long=field.is_json,
        options=(("", "-"), *options) if options else (),
    )


def _label(choice: JsonValue) -> str:
    if isinstance(choice, bool):
        return "yes" if choice else "no"
    return choice if isinstance(choice, str) else dumps(choice)


_PAGES = Path(__file__).parent / "pages"
_HEADING = "An agent asks"
_HEADINGS = {QuestionKind.STEP: "A workflow asks"}
_BUTTONS = {
    QuestionKind.TOOL: ("Approve", "Deny"),
    QuestionKind.QUESTION: ("Answer", "Don't answer"),
    QuestionKind.FORM: ("Answer", "Don't answer"),
    QuestionKind.BUDGET: ("Allow more", "Deny"),
    QuestionKind.STEP: ("Approve", "Deny"),
}


def question_page(
    approval: Approval, *, fault: str = "", given: Mapping[str, str] | None = None
) -> HTMLResponse:
    """Return the page of an open question; `fault` is the error of a previous answer."""
    given = given or {}
    yes, no = _BUTTONS[approval.kind]
    return _page(
        status=422 if fault else 200,
        heading=_heading(approval),
        message=fault,
        faulty=True,
        approval=approval,
        title=approval.title,
        until=f"{approval.expires_at:%Y-%m-%d %H:%M} UTC",
        arguments=json.dumps(approval.arguments, indent=2, ensure_ascii=False)
        if approval.arguments
        else "",
        fields=inputs_of(approval, given),
        note=given.get("note", ""),
        yes=yes,
        no=no,
    )


def closed_page(approval: Approval, *, now: bool = False) -> HTMLResponse:
    """Return the page of a closed question; `now` if this request answered it."""
    heading = "Thank you" if now else _heading(approval)
    return _page(status=200, heading=heading, message=_said(approval), title=approval.title)


def message_page(message: str, *, status: int) -> HTMLResponse:
    """Return a page that explains why there is no question."""
    return _page(status=status, message=message, faulty=True)


def _heading(approval: Approval) -> str:
    return _HEADINGS.get(approval.kind, _HEADING)


def _said(approval: Approval) -> str:
    match approval.status:
        case ApprovalStatus.ANSWERED:
            said = "approved" if approval.approved else "denied"
            return f"The question was {said} at {approval.answered_at:%Y-%m-%d %H:%M} UTC."
        case ApprovalStatus.WITHDRAWN:
            what = "execution has ended" if approval.run_id is None else "workflow run has stopped"
            return f"The question is not needed any more: its {what}."
    return "The question has expired; nobody answered it in time."


_NOTHING: Mapping[str, object] = {
    "heading": _HEADING,
    "faulty": False,
    "approval": None,
    "title": "",
    "fields": None,
}


def _page(*, status: int, **given: object) -> HTMLResponse:
    values = {**_NOTHING, **given}
    template, style = _template()
    # the policy allows our own stylesheet only, by its digest
    content = template.render(values, style=Markup(style))  # noqa: S704
    digest = b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; style-src 'sha256-{digest}'; form-action 'self'; "
        "base-uri 'none'; frame-ancestors 'none'"
    )
    headers = {
        "Content-Security-Policy": policy,
        "Cache-Control": "no-store",
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
        "X-Frame-Options": "DENY",
        "X-Robots-Tag": "noindex",
    }
    return HTMLResponse(content, status_code=status, headers=headers)


@cache
def _template() -> tuple[Template, str]:
    environment = Environment(
        loader=FileSystemLoader(_PAGES), autoescape=True, undefined=StrictUndefined
    )
    environment.filters["printable"] = printable
    style = (_PAGES / "approval.css").read_text()
    return environment.get_template("approval.html"), style
