from typing import Any

import pytest

from celeriac.domain.approvals import MAX_NOTE, Answer, Question, QuestionKind, check_answer
from celeriac.domain.errors import (
    AnswerInvalidError,
    InvalidInputError,
    SchemaInvalidError,
    TooLargeError,
)
from celeriac.services.catalog.schemas import faults

NUMBER = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}


def _question(**more: Any) -> Question:
    values: dict[str, Any] = {"key": "k", "kind": QuestionKind.QUESTION, "title": "Why?"}
    return Question(**(values | more))


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"key": ""}, "key"),
        ({"key": "k" * 501}, "key"),
        ({"expires_seconds": 0}, "expires_seconds"),
        ({"expires_seconds": float("nan")}, "expires_seconds"),
        ({"expires_seconds": float("inf")}, "expires_seconds"),
        ({"kind": QuestionKind.FORM}, "schema"),
    ],
)
def test_what_nobody_could_answer_is_refused(values: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidInputError) as refused:
        _question(**values)
    assert refused.value.field == field


@pytest.mark.parametrize("schema", [{"type": "nonsense"}, {"$ref": "https://example.com/schema"}])
def test_a_schema_that_is_none_or_leads_elsewhere_is_refused(schema: dict[str, Any]) -> None:
    with pytest.raises(SchemaInvalidError):
        _question(kind=QuestionKind.FORM, schema=schema)


@pytest.mark.parametrize(
    ("kind", "schema", "answer"),
    [
        (QuestionKind.TOOL, None, Answer(approved=True)),
        (QuestionKind.TOOL, None, Answer(approved=True, value={})),
        (QuestionKind.QUESTION, None, Answer(approved=True, value="so")),
        (QuestionKind.FORM, NUMBER, Answer(approved=True, value={"n": 1})),
        (QuestionKind.BUDGET, None, Answer(approved=True)),
        (QuestionKind.FORM, NUMBER, Answer(approved=False, note="no")),
    ],
)
def test_what_fits_is_taken(
    kind: QuestionKind, schema: dict[str, Any] | None, answer: Answer
) -> None:
    check_answer(kind, schema, answer, faults)


def test_each_fault_of_a_form_is_named() -> None:
    with pytest.raises(AnswerInvalidError, match="an integer beyond 64 bits"):
        check_answer(QuestionKind.TOOL, None, Answer(approved=True, value={"n": 2**63}), faults)
    with pytest.raises(AnswerInvalidError) as refused:
        check_answer(QuestionKind.FORM, NUMBER, Answer(approved=True, value={"n": "one"}), faults)

    assert refused.value.field == "value.n"
    assert "value.n: " in refused.value.message


@pytest.mark.parametrize(
    ("answer", "field"),
    [
        (Answer(approved=True, note="x" * (MAX_NOTE + 1)), "note"),
        (Answer(approved=True, value="x" * 1_000_001), "value"),
    ],
)
def test_what_is_too_large_is_refused(answer: Answer, field: str) -> None:
    with pytest.raises(TooLargeError) as refused:
        check_answer(QuestionKind.QUESTION, None, answer, faults)
    assert refused.value.field == field
