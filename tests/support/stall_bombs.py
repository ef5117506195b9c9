"""What one request, or one execution, might hold others up with (docs/adr/0020).

Each bomb is what an operator can send; those without a key, what anybody can.
"""

import gzip
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

MEGABYTE = 1_000_000


@dataclass(frozen=True, slots=True)
class Body:
    """A request with a raw body; `key` says whether it has a key."""

    path: str
    content: Callable[[], bytes]
    key: bool = False
    method: str = "POST"
    media: str = "application/json"
    encoding: str | None = None
    times: int = 1


@dataclass(frozen=True, slots=True)
class Definition:
    """A task, or an agent, to be made."""

    spec: Callable[[], Mapping[str, Any]]
    kind: str = "tasks"


@dataclass(frozen=True, slots=True)
class Submission:
    """A task that can be made, executed with values that make it expensive; `at_once` threads."""

    spec: Mapping[str, Any]
    variables: Callable[[], Mapping[str, Any]]
    at_once: int = 1
    batch: int = 0
    crew: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Run:
    """An execution of a function of `fleet_agents`, on the worker; it ends with one of `ends`."""

    function: str
    variables: Callable[[], Mapping[str, Any]]
    spec: Mapping[str, Any] = field(default_factory=dict)
    ends: Sequence[str | None] = (None,)


Bomb = Body | Definition | Submission | Run


def fanned(levels: int, keyword: str = "allOf") -> dict[str, Any]:
    """Return a schema whose levels refer to the next one twice."""
    places: dict[str, Any] = {
        f"d{level}": {keyword: [{"$ref": f"#/$defs/d{level + 1}"}] * 2} for level in range(levels)
    }
    return {"$defs": {**places, f"d{levels}": {"type": "object"}}, "$ref": "#/$defs/d0"}


def _tree() -> dict[str, Any]:
    branch = {"properties": {"c": {"$ref": "#/$defs/n"}}}
    kinds = [{**branch, "required": [name]} for name in "xyz"]
    return {"$defs": {"n": {"oneOf": [*kinds, branch]}}, "$ref": "#/$defs/n"}


def _nest(levels: int) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for _ in range(levels):
        value = {"c": value}
    return value


def _nested_lists() -> bytes:
    return (
        b'{"variables":{"value":[1234567890123456789,' + b"[1]," * (17 * MEGABYTE // 10) + b"[]]}}"
    )


def _crew(text: str, schema: Mapping[str, Any] | None = None, count: int = 70) -> dict[str, Any]:
    agents = [{"id": "a", "role": "R", "goal": "G", "backstory": text, "model": "local/m"}]
    tasks: list[dict[str, Any]] = [
        {"id": f"t{n}", "description": text, "expected_output": "E", "agent": "a",
         "context": [f"t{n - 1}"] if n else []}
        for n in range(count)
    ]  # fmt: skip
    if schema is not None:
        for task in tasks:
            task["output_schema"] = schema
    return {"runner": "crewai", "crew": {"agents": agents, "tasks": tasks}}


def _template(prompt: str, at_once: int = 1, **variables: Callable[[], Any]) -> Submission:
    return Submission(
        {"prompt": prompt}, lambda: {name: make() for name, make in variables.items()}, at_once
    )


def _valued(schema: Mapping[str, Any], value: Callable[[], Any], at_once: int = 1) -> Submission:
    whole = {**schema.get("whole", {}), "properties": {"value": schema["of"]}}
    return Submission({"variables_schema": whole}, lambda: {"value": value()}, at_once)


def _loop(body: str) -> str:
    return "{% for i in range(9000) %}" + body + "{% endfor %}"


def _text(letters: str, characters: int) -> Callable[[], str]:
    return lambda: letters * (characters // len(letters))


def _numbers(count: int) -> Callable[[], list[int]]:
    return lambda: list(range(count))


_A = _text("x", 7 * MEGABYTE)
_HEAVY = _loop("{% if i % 7 == 3 %}{{ i }}{% endif %}{{ loop.index + i }}")

BOMBS: Mapping[str, Bomb] = {
    # bodies (H1 of the security review)
    "H1 lists in a list, no key": Body("/api/v1/agents", _nested_lists),
    "H1 empty lists, no key": Body(
        "/api/v1/agents", lambda: b"[" + b"[]," * (25 * MEGABYTE // 10) + b"[]]"
    ),
    "H1 a search for NUL": Body(
        "/api/v1/agents", lambda: b'{"a":[' + b'"b",' * (15 * MEGABYTE // 10) + b'"\\u0000"]}', True
    ),
    "H1 unknown fields": Body(
        "/api/v1/agents",
        lambda: b"{" + b",".join(b'"f%d":1' % n for n in range(600_000)) + b"}",
        True,
    ),
    "H1 lists in a list, with a key": Body("/api/v1/agents", _nested_lists, True),
    # small in, large out (its M5)
    "M5 a cassette of empty lines": Body(
        "/api/v1/cassettes?name=lines",
        lambda: gzip.compress(b"\n" * 33 * MEGABYTE),
        True,
        media="application/jsonl",
        encoding="gzip",
    ),
    "M5 a value that doesn't fit": _valued({"of": {"type": "integer"}}, _text("s", 3 * MEGABYTE)),
    "M5 numbers that don't fit": _valued({"of": {"items": {"type": "string"}}}, _numbers(190_000)),
    "M5 nothing that fits in any way": _valued(
        {"of": {"items": {"anyOf": [{"type": "string"}, {"type": "null"}]}}}, _numbers(190_000)
    ),
    "M5 unknown names": _valued(
        {"of": {"additionalProperties": False}}, lambda: {f"n{n}": n for n in range(90_000)}
    ),
    # templates (its H3)
    "H3 round up": _template("{{ 1|round(n, 'ceil') }}", n=lambda: 12_000_000),
    "H3 round down": _template("{{ 5|round(-n) }}", n=lambda: 16_000_000),
    "H3 trim": _template(
        "{{ a|trim(b)|length }}",
        a=_text("x", 700_000),
        b=lambda: "y" * 700_000 + "x",
    ),
    "H3 tojson": _template("{{ [" + "a," * 60 + "]|tojson|length }}", a=_A),
    "H3 string": _template("{{ [" + "a," * 60 + "]|string|length }}", a=_A),
    "H3 output": _template("{{ [" + "a," * 60 + "] }}", a=_A),
    "H3 letters in order": _template("{{ a|list|sort }}", a=_text("yx", 4 * MEGABYTE)),
    "long names in order": _template(
        "{{ [" + "a," * 2_000 + "]|sort(case_sensitive=true)|length }}", a=_A
    ),
    "many numbers in order": _template("{{ many|sort|sort|length }}", many=_numbers(190_000)),
    "texts compared": _template(_loop("{{ a == a[:6999999] + 'y' }}"), a=_A),
    "lists compared": _template("{{ many == many[:] }}" * 300, many=_numbers(190_000)),
    "a text looked for": _template(_loop("{{ (a[:99] + 'y') in a }}"), a=_text("x", MEGABYTE)),
    "an element looked for": _template("{{ -1 in many }}" * 900, many=_numbers(190_000)),
    "every other character": _template(_loop("{{ a[::2]|length }}"), a=_text("\u00e9x", MEGABYTE)),
    "capitals": _template(_loop("{{ a|upper|length }}"), a=_text("\u00df", 900_000)),
    "titles": _template(_loop("{{ a|title|length }}"), a=_text("a ", 900_000)),
    "words": _template(_loop("{{ a|wordcount }}"), a=_text("a ", 900_000)),
    "joined": _template(_loop("{{ many|join|length }}"), many=_numbers(100_000)),
    "loops": _template(_HEAVY),
    "loops, twelve at once": _template(_HEAVY, at_once=12),
    "a number of 5,000 digits": Definition(lambda: {"prompt": "{{ " + "9" * 5_000 + " }}"}),
    "a template of many words": Definition(lambda: {"prompt": "{{a}}" * 39_000}),
    "a template of brackets": Definition(lambda: {"prompt": "{{" + "[" * 190_000}),
    "loops within loops": Definition(
        lambda: {"prompt": "{% for a in b %}" * 90 + "{% endfor %}" * 90}
    ),
    "a batch of loops": Submission({"prompt": _HEAVY}, lambda: {"a": 1}, batch=5_000),
    "a crew of templates": Definition(lambda: _crew("{{ a }} " * 12_000), "agents"),
    "a crew of loops": Submission({"prompt": "x"}, dict, crew=_crew(_HEAVY)),
    # schemas (its H4)
    "H4 allOf": Definition(lambda: {"variables_schema": fanned(30)}),
    "H4 anyOf": Definition(lambda: {"output_schema": fanned(22, "anyOf")}),
    "oneOf in a crew": Definition(lambda: _crew("x", fanned(30, "oneOf"), 20), "agents"),
    "schemas in a crew": Definition(
        lambda: _crew(
            "x", {"properties": {f"p{n}": {"pattern": "a{40}"} for n in range(1_000)}}, 2
        ),
        "agents",
    ),
    "patterns": Definition(
        lambda: {
            "output_schema": {
                "properties": {f"p{n}": {"pattern": r"\p{L}{30}"} for n in range(2_000)}
            }
        }
    ),
    "the largest pattern": Definition(
        lambda: {"output_schema": {"pattern": r"^[\p{L}\p{N} ]{1,48}$"}}
    ),
    "unevaluated properties": Definition(
        lambda: {
            "variables_schema": {
                "$defs": {
                    **{
                        f"d{n}": {
                            "allOf": [{"$ref": f"#/$defs/d{n + 1}"}],
                            "unevaluatedProperties": False,
                        }
                        for n in range(25)
                    },
                    "d25": {"properties": {"a": {}}},
                },
                "$ref": "#/$defs/d0",
            }
        }
    ),
    "a pattern and a long text": _valued(
        {"of": {"pattern": "([ab]{1,90}){60}!"}}, _text("ab", 3 * MEGABYTE)
    ),
    "a schema that leads to itself": _valued(
        {"whole": {"$defs": _tree()["$defs"]}, "of": {"$ref": "#/$defs/n"}}, lambda: _nest(55)
    ),
    "unique numbers": _valued({"of": {"uniqueItems": True}}, _numbers(190_000)),
    "large values, six at once": _valued(
        {"of": {"items": {"allOf": [{"type": "integer"}] * 50}}}, _numbers(190_000), at_once=6
    ),
    # on the worker
    "a result of many faults": Run(
        "give",
        lambda: {"count": 300_000},
        {"output_schema": {"items": {"type": "string"}}},
        ["output_invalid"],
    ),
    "a large result": Run(
        "give",
        lambda: {"count": 300_000},
        {"output_schema": {"items": {"allOf": [{"type": "integer"}] * 20}}},
    ),
    "a deep result": Run(
        "give", lambda: {"depth": 60}, {"output_schema": _tree()}, ["output_invalid"]
    ),
    "a result and a pattern": Run(
        "give",
        lambda: {"text": MEGABYTE},
        {"output_schema": {"pattern": "([ab]{1,90}){60}!"}},
        ["output_invalid"],
    ),
    "a question with a schema": Run(
        "ask_by", lambda: {"schema": fanned(30)}, ends=["schema_invalid"]
    ),
    "a prompt that takes long": Run("noop", lambda: {"a": 1}, {"prompt": _HEAVY}),
}
