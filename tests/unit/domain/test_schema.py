"""JSON schemas of variables and results."""

import time
from typing import Any

import pytest

from celeriac.domain.errors import SchemaInvalidError, VariablesInvalidError
from celeriac.domain.schemas import (
    MAX_SCHEMA_BYTES,
    check_schema,
    is_quick,
    unfolded,
)
from celeriac.domain.schemas.pattern import compiled_size
from celeriac.kit.json_types import dumps
from celeriac.services.catalog.schemas import check_variables, faults, violations

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


def fanned(levels: int, keyword: str = "allOf") -> dict[str, Any]:
    """Return a schema whose levels refer to the next one twice."""
    places: dict[str, Any] = {
        f"d{level}": {keyword: [{"$ref": f"#/$defs/d{level + 1}"}] * 2} for level in range(levels)
    }
    return {"$defs": {**places, f"d{levels}": {"type": "object"}}, "$ref": "#/$defs/d0"}


def chained(levels: int, link: dict[str, Any]) -> dict[str, Any]:
    """Return a schema whose levels refer to the next one, with `link` beside the reference."""
    places: dict[str, Any] = {
        f"d{level}": {"allOf": [{"$ref": f"#/$defs/d{level + 1}"}], **link}
        for level in range(levels)
    }
    return {"$defs": {**places, f"d{levels}": {"type": "object"}}, "$ref": "#/$defs/d0"}


def twice(level: int) -> dict[str, Any]:
    return {"if": {"$ref": f"#/$defs/d{level}"}, "then": {"$ref": f"#/$defs/d{level}"}}


BOMBS: dict[str, Any] = {
    "allOf": fanned(30),
    "anyOf": fanned(22, "anyOf"),
    "oneOf": fanned(40, "oneOf"),
    "if and then": {
        "$defs": {**{f"d{n}": twice(n + 1) for n in range(30)}, "d30": {}},
        "$ref": "#/$defs/d0",
    },
    "dependentSchemas": {
        "$defs": {
            **{
                f"d{n}": {"dependentSchemas": {k: {"$ref": f"#/$defs/d{n + 1}"} for k in "ab"}}
                for n in range(30)
            },
            "d30": {},
        },
        "$ref": "#/$defs/d0",
    },
    "not and a reference": {
        "$defs": {
            **{
                f"d{n}": {"not": {"$ref": f"#/$defs/d{n + 1}"}, "$ref": f"#/$defs/d{n + 1}"}
                for n in range(30)
            },
            "d30": {},
        },
        "$ref": "#/$defs/d0",
    },
    "anchors": {
        "$defs": {
            **{
                f"d{n}": {"$anchor": f"a{n}", "allOf": [{"$ref": f"#a{n + 1}"}] * 2}
                for n in range(30)
            },
            "d30": {"$anchor": "a30"},
        },
        "$ref": "#a0",
    },
    "addresses": {
        "$id": "https://example.com/root",
        "$defs": {
            **{f"d{n}": {"$id": f"a{n}", "allOf": [{"$ref": f"a{n + 1}"}] * 2} for n in range(30)},
            "d30": {"$id": "a30"},
        },
        "$ref": "a0",
    },
    "dynamic references": {
        "$defs": {
            **{
                f"d{n}": {"$dynamicAnchor": f"a{n}", "allOf": [{"$dynamicRef": f"#a{n + 1}"}] * 2}
                for n in range(30)
            },
            "d30": {"$dynamicAnchor": "a30"},
        },
        "$ref": "#a0",
    },
    "unevaluatedProperties": chained(20, {"unevaluatedProperties": False}),
    "unevaluatedItems": chained(20, {"unevaluatedItems": False}),
    "a place within another": {
        "properties": {"a": fanned(30)["$defs"]["d0"]},
        "$defs": fanned(30)["$defs"],
    },
    "an unused definition": {"$defs": fanned(30)["$defs"]},
    "old definitions": {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "definitions": {
            **{f"d{n}": {"allOf": [{"$ref": f"#/definitions/d{n + 1}"}] * 2} for n in range(30)},
            "d30": {},
        },
        "allOf": [{"$ref": "#/definitions/d0"}],
    },
    "a long chain": chained(400, {}),
    "itself": {"$ref": "#"},
    "itself in a list": {"anyOf": [{"type": "string"}, {"$ref": "#"}]},
    "two, one in the other": {
        "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"not": {"$ref": "#/$defs/a"}}},
        "$ref": "#/$defs/a",
    },
    "nested repetitions": {"pattern": "((a{99}){99}){99}"},
    "a wide repetition": {"pattern": "([ab]{1,200}){200}!"},
    "classes of Unicode": {"pattern": r"\pL{200}"},
    "patterns without number": {
        "properties": {f"p{n}": {"pattern": r"\p{L}{20}"} for n in range(1_000)}
    },
    "patterns of unused definitions": {
        "$defs": {f"p{n}": {"pattern": r"\p{L}{20}"} for n in range(1_000)}
    },
    "patterns of names": {"patternProperties": {r"\p{L}{200}": {}}},
    "ignored spaces": {"pattern": r"(?x)\p{L} {1000}"},
    "many choices": {"anyOf": [{"const": n} for n in range(6_000)]},
    "many requirements": {"allOf": [{"required": ["a"] * 100} for _ in range(150)]},
    "two of one address": {"$defs": {"a": {"$id": "x"}, "b": {"$id": "x"}}},
    "two of one anchor": {"$defs": {"a": {"$anchor": "x"}, "b": {"$anchor": "x"}}},
    "the meta-schema": {"$ref": "https://json-schema.org/draft/2020-12/schema"},
    "deep nesting": None,
}
BOMBS["deep nesting"] = {}
for _ in range(70):
    BOMBS["deep nesting"] = {"items": BOMBS["deep nesting"]}


@pytest.mark.parametrize("name", BOMBS)
def test_schemas_that_cost_too_much_are_refused_before_they_do(name: str) -> None:
    began = time.thread_time()
    with pytest.raises(SchemaInvalidError) as caught:
        check_schema(BOMBS[name], field="spec.output_schema")
    assert caught.value.field == "spec.output_schema"
    assert time.thread_time() - began < 5, "it was refused only after it had cost much"
    with pytest.raises(SchemaInvalidError):
        violations(BOMBS[name], {})


@pytest.mark.parametrize(
    "schema",
    [
        fanned(8),
        chained(30, {}),
        {"properties": {"children": {"type": "array", "items": {"$ref": "#"}}}},
        {"$defs": {"n": {"$anchor": "n", "properties": {"next": {"$ref": "#n"}}}}, "$ref": "#n"},
        {"$dynamicAnchor": "n", "properties": {"next": {"$dynamicRef": "#n"}}},
        {"$id": "https://example.com/a", "properties": {"b": {"$ref": "#/$defs/b"}},
         "$defs": {"b": {"$id": "b", "properties": {"c": {"$ref": "#/$defs/c"}},
                         "$defs": {"c": {"type": "string"}}}}},
        {"properties": {"id": {"type": "string"}, "$id": {"type": "string"}, "$ref": {}}},
        {"default": {"$id": "x", "$ref": "#/nowhere"}, "examples": [{"$id": "x"}, {"$id": "x"}]},
        {"enum": list(range(5_000))},
        {"properties": {f"p{n}": {"type": "string", "maxLength": 5} for n in range(1_500)}},
        {"pattern": r"^[\p{L} ]{1,100}$"},
        {"pattern": "^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$"},
        {"additionalProperties": True, "items": False, "not": False},
        {"$schema": "http://json-schema.org/draft-04/schema#", "id": "http://example.com/root",
         "properties": {"a": {"$ref": "#/definitions/a"}}, "definitions": {"a": {}}},
        {"properties": {"a/b": {"type": "string"}, "c": {"$ref": "#/properties/a~1b"}}},
    ],
)  # fmt: skip
def test_ordinary_schemas_are_not_refused(schema: dict[str, Any]) -> None:
    check_schema(schema, field="f")
    assert is_quick(schema, {"a": 1})
    violations(schema, {"a": 1})


def test_references_within_another_resource_are_counted_where_they_lead() -> None:
    """`#/$defs/a` means another place there; taking the root's would miss what it costs."""
    inner = {"$id": "inner", **fanned(30)}
    outer = {"$id": "https://example.com/", "$defs": {"d0": {}, "i": inner}, "$ref": "inner"}
    with pytest.raises(SchemaInvalidError, match="steps"):
        check_schema(outer, field="f")


TREE = {
    "$defs": {
        "n": {
            "anyOf": [
                {"properties": {"c": {"$ref": "#/$defs/n"}, "z": False}},
                {"properties": {"c": {"$ref": "#/$defs/n"}, "y": False}},
            ]
        }
    },
    "$ref": "#/$defs/n",
}
"""It looks at each level of a value twice as often as at the one above."""


def nested(levels: int) -> dict[str, Any]:
    value: dict[str, Any] = {"z": 1, "y": 1}
    for _ in range(levels):
        value = {"c": value}
    return value


def test_what_grows_with_the_depth_of_the_value_is_killed() -> None:
    """Its faults grow as well: there is one message, of which nothing is missing but the places."""
    check_schema(TREE, field="f")
    assert is_quick(TREE, nested(4))
    assert violations(TREE, nested(4))
    assert not is_quick(TREE, nested(40))
    (fault,) = violations(TREE, nested(40))
    assert fault == "the value doesn't fit, in more places than can be listed"


@pytest.mark.parametrize("bad", [0, 1])
def test_large_values_are_validated_all_the_same(bad: int) -> None:
    numbers: list[Any] = [*range(300_000), *["x"] * bad]
    schema = {"items": {"type": "integer"}}
    assert not is_quick(schema, numbers)
    said = ['300000: the value is not of type "integer"'] * bad
    assert violations(schema, numbers) == said


def test_faults_without_number_are_not_all_listed() -> None:
    found = violations({"items": {"type": "string"}}, list(range(300_000)))
    assert found == ['0: the value is not of type "string"']


def test_a_long_text_under_a_heavy_pattern_is_killed() -> None:
    schema = {"pattern": "([ab]{1,90}){60}!"}
    check_schema(schema, field="f")
    assert is_quick(schema, "ab" * 5)
    assert not is_quick(schema, "ab" * 200_000)
    (fault,) = violations(schema, "ab" * 200_000)
    assert "more than 5 seconds" in fault


SECRET = "HUNTERSECRET"


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "integer"},
        {"enum": ["a", 1]},
        {"const": "b"},
        {"maxLength": 3},
        {"minLength": 50},
        {"pattern": "^x"},
        {"not": {"type": "string"}},
        {"anyOf": [{"type": "integer"}, {"type": "null"}]},
        {"oneOf": [{"type": "string"}, {"minLength": 1}]},
        {"allOf": [{"type": "integer"}]},
        {"if": {"type": "string"}, "then": False},
        {"$schema": "http://json-schema.org/draft-07/schema#", "format": "email"},
        {"$schema": "http://json-schema.org/draft-07/schema#",
         "contentMediaType": "application/json"},
        False,
    ],
)  # fmt: skip
def test_no_message_repeats_a_value(schema: dict[str, Any]) -> None:
    values: list[Any] = [SECRET, [SECRET], {"password": SECRET}, [[SECRET], {"a": SECRET}]]
    for value in values:
        whole = {"properties": {"it": schema}, "items": schema, "additionalProperties": schema}
        for wrapped in (schema, whole):
            for said in violations(wrapped, value):
                assert SECRET not in said
    of_others: list[tuple[str, Any]] = [
        ("uniqueItems", [SECRET, SECRET]),
        ("contains", [SECRET]),
        ("maxItems", [SECRET]),
        ("unevaluatedItems", [SECRET]),
        ("minProperties", {"a": SECRET}),
        ("required", {"a": SECRET}),
        ("unevaluatedProperties", {"a": SECRET}),
        ("multipleOf", 1234567),
        ("maximum", 1234567),
    ]
    for keyword, value in of_others:
        limits = {"uniqueItems": True, "contains": {"type": "null"}, "maxItems": 0,
                  "minProperties": 9, "required": ["b"], "multipleOf": 2, "maximum": 5}  # fmt: skip
        found = violations({keyword: limits.get(keyword, False)}, value)
        assert found, keyword
        assert not any(SECRET in said or "1234567" in said for said in found), found


def test_messages_are_short_whatever_was_sent() -> None:
    many = {f"{'x' * 5_000}{n}": n for n in range(100)}
    found = faults({"additionalProperties": False, "required": ["y" * 9_000]}, many)
    assert found
    deep = faults({"additionalProperties": {"additionalProperties": {"type": "null"}}},
                  {"k" * 3_000: {"m" * 3_000: 1}})  # fmt: skip
    for fault in (*found, *deep):
        assert len(fault.message) <= 300
        assert len(fault.place) <= 200
    enum = faults({"enum": ["z" * 20_000]}, "a")
    assert len(enum[0].message) <= 300


def test_a_schema_that_is_unfolded_is_counted() -> None:
    assert unfolded({"properties": {"a": {}, "b": {}}}) == 3
    assert unfolded({"properties": {"a": {"$ref": "#"}}}) is None
    levels: dict[str, Any] = {
        f"d{n}": {"properties": {k: {"$ref": f"#/$defs/d{n + 1}"} for k in "ab"}} for n in range(20)
    }
    size = unfolded({"$defs": {**levels, "d20": {}}, "$ref": "#/$defs/d0"})
    assert size is not None
    assert size > 2**20


def test_what_is_no_json_is_no_schema() -> None:
    with pytest.raises(SchemaInvalidError, match="not JSON"):
        check_schema({"const": object()}, field="f")


@pytest.mark.parametrize(
    ("pattern", "at_least"),
    [
        ("abc", 3),
        ("a{500}", 500),
        ("a{2,500}", 500),
        ("(a{10}){20}", 200),
        ("(ab|c){100}", 300),
        ("[abc]{50}", 50),
        (r"\p{L}{10}", 10_000),
        (r"\pL{10}", 10_000),
        (r"[^\p{L}]{10}", 10_000),
        ("(?i)a{500}", 1_000),
        (r"(\(\){50}){10}", 500),
        ("[]{]{100}", 100),
        ("((((a{10}){10}){10}){10}){10}", 10**5),
    ],
)
def test_patterns_are_counted_with_their_repetitions(pattern: str, at_least: int) -> None:
    assert compiled_size(pattern) >= at_least
    assert compiled_size(f"x{pattern}") > compiled_size(pattern)


def test_a_schema_is_counted_in_bytes() -> None:
    schema = {"description": "\u00e9" * 60_000}
    assert len(dumps(schema)) < MAX_SCHEMA_BYTES
    with pytest.raises(SchemaInvalidError, match=str(MAX_SCHEMA_BYTES)):
        check_schema(schema, field="f")
