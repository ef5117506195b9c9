"""JSON schemas of variables and results."""

import pytest

from celeriac.domain.errors import SchemaInvalidError, VariablesInvalidError
from celeriac.domain.schema import MAX_SCHEMA_BYTES, check_schema, check_variables, violations

LEAD = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 1},
        "tags": {"type": "array", "items": {"$ref": "#/$defs/tag"}},
    },
    "required": ["name"],
    "additionalProperties": False,
    "$defs": {"tag": {"type": "string", "pattern": "^[a-z]+$"}},
}


def test_values_that_fit_are_accepted() -> None:
    check_schema(LEAD, field="variables_schema")
    check_variables(LEAD, {"name": "Ada", "tags": ["a", "b"]})
    check_variables({}, {"anything": object()})


@pytest.mark.requirement("A6")
def test_every_fault_is_named_with_its_place() -> None:
    with pytest.raises(VariablesInvalidError) as caught:
        check_variables(LEAD, {"name": "", "tags": ["a", 1, "B"], "more": True})
    text = caught.value.message
    for part in ("name: ", "tags.1: ", "tags.2: ", "'more'"):
        assert part in text
    assert caught.value.field == "variables"


def test_a_missing_variable_is_named() -> None:
    with pytest.raises(VariablesInvalidError, match=r'"name" is a required property'):
        check_variables(LEAD, {})


def test_at_most_ten_faults_are_told() -> None:
    assert len(violations({"items": {"type": "string"}}, list(range(50)))) == 10


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "strin"},
        {"properties": 5},
        {"pattern": "("},
        {"$ref": "#/nowhere"},
        {"$ref": "https://example.com/schema.json"},
        {"$ref": "file:///etc/passwd"},
        {"$schema": "https://example.com/dialect"},
        {"minLength": -1},
    ],
)
def test_what_is_no_schema_is_refused_with_its_field(schema: dict[str, object]) -> None:
    with pytest.raises(SchemaInvalidError) as caught:
        check_schema(schema, field="spec.variables_schema")
    assert caught.value.field == "spec.variables_schema"


def test_a_schema_has_a_limit_of_size() -> None:
    with pytest.raises(SchemaInvalidError, match=str(MAX_SCHEMA_BYTES)):
        check_schema({"description": "x" * MAX_SCHEMA_BYTES}, field="f")


def test_a_hostile_pattern_takes_no_time() -> None:
    """A regex engine that backtracks would not come back from this."""
    schema = {"type": "string", "pattern": "^(a+)+$"}
    check_schema(schema, field="f")
    assert violations(schema, "a" * 50_000 + "b")
