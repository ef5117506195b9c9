"""What an answer must be like to fit its question."""

from celeriac.domain.approval import Answer, QuestionKind
from celeriac.domain.errors import AnswerInvalidError, TooLargeError
from celeriac.domain.schema import faults
from celeriac.kit.jsontypes import MAX_DEPTH, JsonObject, JsonValue, storable

MAX_NOTE = 10_000
MAX_VALUE_BYTES = 1_000_000


def check_answer(kind: QuestionKind, schema: JsonObject | None, answer: Answer) -> None:
    """Accept an answer or raise AnswerInvalidError naming the field and the cure.

    A refusal has no value. An approved tool call may have other arguments, an object; a free
    question needs a text; a form, and whatever else has a schema, what fits that. Raises
    TooLargeError.
    """
    if len(answer.note) > MAX_NOTE:
        raise TooLargeError(f"The note has over {MAX_NOTE:,} characters.", field="note")
    value = answer.value
    if value is not None and len(_encoded(value)) > MAX_VALUE_BYTES:
        raise TooLargeError(f"The value has over {MAX_VALUE_BYTES:,} bytes.", field="value")
    if not answer.approved:
        if value is not None:
            raise AnswerInvalidError(
                "A refusal has no value; say why in `note`, or approve.", field="value"
            )
        return
    match kind:
        case QuestionKind.TOOL if not (value is None or isinstance(value, dict)):
            raise AnswerInvalidError(
                "The value of an approved tool call is null, or an object of other arguments.",
                field="value",
            )
        case QuestionKind.QUESTION if not (isinstance(value, str) and value.strip()):
            raise AnswerInvalidError("The question needs a text as its value.", field="value")
    if schema is not None and kind is not QuestionKind.TOOL:
        _check_schema(schema, value)


def _encoded(value: JsonValue) -> str:
    try:
        return storable(value, depth=MAX_DEPTH)
    except TypeError as error:
        raise AnswerInvalidError(f"The value can't be stored: {error}.", field="value") from error


def _check_schema(schema: JsonObject, value: JsonValue) -> None:
    found = faults(schema, value)
    if found:
        said = "; ".join(f"{_field(fault.place)}: {fault.message}" for fault in found)
        raise AnswerInvalidError(
            f"The value doesn't fit the form: {said}.",
            field=_field(found[0].place),
            faults=[{"field": _field(fault.place), "message": fault.message} for fault in found],
        )


def _field(place: str) -> str:
    return f"value.{place}" if place else "value"
