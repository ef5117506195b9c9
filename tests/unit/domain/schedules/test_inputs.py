"""Inputs of schedules: expressions over the fire."""

from datetime import UTC, datetime

import pytest

from celeriac.domain.errors import InvalidInputError
from celeriac.domain.schedules.inputs import check_input, input_of
from celeriac.domain.schedules.model import FireKind
from celeriac.kit.json_types import JsonObject

pytestmark = pytest.mark.requirement("F17")

_AT = datetime(2026, 11, 1, 23, 30, tzinfo=UTC)


def test_the_input_knows_the_time_of_the_fire() -> None:
    given: JsonObject = {
        "day": "${{ fire.date }}",
        "deep": [{"at": "${{ fire.scheduled_at }}"}, "by ${{ fire.kind }} at ${{ fire.local }}"],
        "plain": "$${{ stays }}",
        "number": 1,
    }
    check_input(given)
    assert input_of(given, _AT, "Europe/Berlin", FireKind.BACKFILL) == {
        "day": "2026-11-02",
        "deep": [
            {"at": "2026-11-01T23:30:00+00:00"},
            "by backfill at 2026-11-02T00:30:00+01:00",
        ],
        "plain": "${{ stays }}",
        "number": 1,
    }


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("${{ fire.date", "has no end"),
        ("${{ fire.day }}", "a fire has no day; it has scheduled_at, local, date, kind"),
        ("${{ input.day }}", "there is no input here; there is fire"),
    ],
)
def test_wrong_expressions_are_refused_with_their_place(text: str, words: str) -> None:
    with pytest.raises(InvalidInputError, match=words) as raised:
        check_input({"a": [{"b": text}]})
    assert raised.value.field == "input.a.0.b"


def test_an_expression_without_a_value_is_refused_when_it_fires() -> None:
    given: JsonObject = {"a": "${{ int(fire.date) }}"}
    check_input(given)
    with pytest.raises(InvalidInputError, match="input has no value"):
        input_of(given, _AT, "UTC", FireKind.SCHEDULED)
