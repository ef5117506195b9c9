"""Questions as HTML forms, and answers from what browsers send."""

from collections.abc import Mapping
from dataclasses import dataclass

from celeriac.domain.approval import Answer, Approval, QuestionKind
from celeriac.domain.errors import AnswerInvalidError
from celeriac.domain.forms import FormFaultError, FormField, form_fields, form_value
from celeriac.kit.jsontypes import JsonValue, dumps, loads, refuse_big_integers

_VALUE = "value"
_PREFIX = "value."


@dataclass(frozen=True, slots=True)
class Option:
    """One choice of an input."""

    value: str
    label: str


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
    options: tuple[Option, ...] = ()


def inputs_of(approval: Approval, given: Mapping[str, str]) -> list[Input]:
    """Return the inputs of a question's form, filled with what was `given` before."""
    if approval.kind is QuestionKind.TOOL:
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
    """Return the answer that a browser sent. Raises AnswerInvalidError naming the field."""
    decision = sent.get("decision")
    if decision not in {"approve", "refuse"}:
        raise AnswerInvalidError("Choose one of the buttons.", field="decision")
    note = sent.get("note", "")
    if decision == "refuse":
        return Answer(approved=False, note=note)
    return Answer(approved=True, value=_value(approval, sent), note=note)


def _value(approval: Approval, sent: Mapping[str, str]) -> JsonValue:
    if approval.kind is QuestionKind.TOOL:
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
    options = tuple(Option(dumps(choice), _label(choice)) for choice in field.choices)
    return Input(
        name=_PREFIX + field.name,
        label=field.label,
        hint=field.hint,
        allowed="" if field.choices else field.allowed,
        given=given.get(_PREFIX + field.name, field.default),
        required=field.required,
        long=field.is_json,
        options=(Option("", "-"), *options) if options else (),
    )


def _label(choice: JsonValue) -> str:
    if isinstance(choice, bool):
        return "yes" if choice else "no"
    return choice if isinstance(choice, str) else dumps(choice)
