from typing import Any

import pytest

from celeriac.domain.schemas.forms import FormFaultError, form_fields, form_value

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "title": "Your name", "description": "In full."},
        "size": {"type": "integer", "default": 3},
        "sure": {"type": "boolean"},
        "colour": {"enum": ["red", 5, None]},
        "more": {"type": ["array", "null"]},
    },
    "required": ["name"],
}


def test_an_object_of_plain_properties_is_a_form_in_its_own_order() -> None:
    fields = form_fields(SCHEMA)

    assert [field.name for field in fields] == ["name", "size", "sure", "colour", "more"]
    name, size, sure, colour, more = fields
    assert (name.label, name.hint, name.required) == ("Your name", "In full.", True)
    assert (size.is_number, size.default, size.required) == (True, "3", False)
    assert (sure.choices, colour.choices) == ((True, False), ("red", 5, None))
    assert more.is_json


@pytest.mark.parametrize(
    "schema",
    [
        {},
        {"type": "string"},
        {"type": "object"},
        {"type": "object", "properties": {"a": True}},
        {"type": "object", "properties": {"a": {}}, "required": "a"},
        {"type": "object", "properties": {str(n): {} for n in range(51)}},
    ],
)
def test_other_schemas_are_none(schema: dict[str, Any]) -> None:
    assert form_fields(schema) == ()


def test_what_is_written_becomes_a_value() -> None:
    written = {"name": "Ada\r\nL.", "size": " 4 ", "sure": "true", "colour": "5", "more": "[1]"}

    assert form_value(SCHEMA, written) == {
        "name": "Ada\nL.", "size": 4, "sure": True, "colour": 5, "more": [1],
    }  # fmt: skip


def test_what_is_left_empty_is_left_out() -> None:
    assert form_value(SCHEMA, {"name": "", "size": ""}) == {}
    assert form_value({**SCHEMA, "type": ["object", "null"]}, {}) is None


@pytest.mark.parametrize("text", ["many", "[1]", '"4"', "NaN"])
def test_what_is_no_number_stays_a_text_for_the_schema_to_judge(text: str) -> None:
    assert form_value(SCHEMA, {"size": text}) == {"size": text}


def test_what_must_be_json_and_is_not_is_named() -> None:
    with pytest.raises(FormFaultError, match="more must be JSON"):
        form_value(SCHEMA, {"more": "[1"})


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [("colour", "red", "red"), ("colour", '"red"', "red"), ("colour", "5", 5),
     ("colour", "null", None), ("colour", "blue", "blue"), ("sure", "true", True),
     ("size", "7", 7)],
)  # fmt: skip
def test_who_types_may_write_a_choice_as_it_is_shown(name: str, text: str, value: object) -> None:
    (field,) = [each for each in form_fields(SCHEMA) if each.name == name]
    assert field.chosen(text) == value


def test_a_field_says_what_may_be_written() -> None:
    properties = {
        "percent": {"type": "integer", "minimum": 0, "maximum": 30},
        "name": {"type": ["string", "null"], "minLength": 2},
        "colour": {"enum": ["red", 7]},
        "sure": {"type": "boolean"},
        "rows": {"type": "array", "maxItems": 3},
        "any": {},
    }
    fields = form_fields({"type": "object", "properties": properties})
    assert [field.allowed for field in fields] == [
        "whole number, at least 0, at most 30",
        "text, at least 2 characters",
        "one of red, 7",
        "one of true, false",
        "JSON list, at most 3 entries",
        "",
    ]
