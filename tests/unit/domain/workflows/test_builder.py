"""The builder makes the document that people write, and nothing that can't be read back."""

import json
from collections.abc import Callable
from typing import Any

import jsonschema_rs
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from celeriac import Workflow, chain, chord, group
from celeriac.domain.errors import WorkflowInvalidError
from celeriac.domain.expressions import compiled
from celeriac.domain.workflows.builder.terms import Term
from celeriac.domain.workflows.document import check, parse
from celeriac.domain.workflows.json_schema import document_schema
from celeriac.kit.yaml_text import read_text


def needs(w: Workflow) -> dict[str, list[str]]:
    return {id_: step.get("needs", []) for id_, step in w.to_dict()["steps"].items()}


def test_ids_come_from_names_and_are_numbered() -> None:
    w = Workflow("w")
    steps = [
        w.step("fetch-page"),
        w.step("fetch-page"),
        w.step("fetch-page", "again"),
        w.step("2nd"),
    ]
    assert [step.id for step in steps] == ["fetch_page", "fetch_page_2", "again", "step_2nd"]


def test_inputs_are_types_defaults_or_schemas() -> None:
    w = Workflow(
        "w",
        input={
            "a": str, "b": int | None, "c": 7, "d": {"type": "string", "enum": ["x"]},
            "e": list[str], "f": "number?", "g": True, "h": dict, "i": 0.5,
        },
    )  # fmt: skip
    w.step("t")
    assert w.to_dict()["input"] == {
        "a": "string", "b": "integer?", "c": {"type": "integer", "default": 7},
        "d": {"type": "string", "enum": ["x"]}, "e": "array", "f": "number?",
        "g": {"type": "boolean", "default": True}, "h": "object",
        "i": {"type": "number", "default": 0.5},
    }  # fmt: skip
    assert w.spec().input["required"] == ["a", "d", "e", "h"]
    with pytest.raises(TypeError, match="input x: give a type"):
        Workflow("w", input={"x": object})


@pytest.mark.parametrize(
    ("build", "text"),
    [
        (lambda a: a.x + 1 > 2, "a.x + 1 > 2"),
        (lambda a: (a.x + 1) * 2, "(a.x + 1) * 2"),
        (lambda a: a.x - (a.y - a.z), "a.x - (a.y - a.z)"),
        (lambda a: 2 * a.x + -3, "2 * a.x + (-3)"),
        (lambda a: (a.x == "it's") & ~a.y | (a.z != None), 'a.x == "it\'s" && !a.y || a.z != null'),  # noqa: E711
        (lambda a: a.x & (a.y | a.z), "a.x && (a.y || a.z)"),
        (lambda a: ~(a.x > 1), "!(a.x > 1)"),
        (lambda a: -(a.x + 1), "-(a.x + 1)"),
        (lambda a: (a.x + a.y).z, "(a.x + a.y).z"),
        (lambda a: a["odd name"][0]["in"], 'a["odd name"][0]["in"]'),
        (lambda a: a.rows.filter(lambda row: row.score > 70).size(),
         "a.rows.filter(row, row.score > 70).size()"),
        (lambda a: a.x.one_of(["p", "q"]), 'a.x in ["p", "q"]'),
        (lambda a: a.text.contains("é\n"), 'a.text.contains("é\\n")'),
    ],
)  # fmt: skip
def test_terms_write_expressions(build: Callable[[Any], Term], text: str) -> None:
    term = build(Term("a"))
    assert str(term) == f"${{{{ {text} }}}}"
    assert f"<{term}>" == f"<{term!s}>"
    compiled(text)


def test_terms_refuse_what_python_would_decide_at_once() -> None:
    w = Workflow("w", input={"n": int})
    with pytest.raises(TypeError, match="use &"):
        bool(w.input.n > 1)
    with pytest.raises(TypeError, match=r"use w\.map"):
        list(w.input.n)
    with pytest.raises(TypeError, match="one_of"):
        1 in w.input.n  # noqa: B015
    with pytest.raises(TypeError, match="can't be changed"):
        w.input.n = 5
    with pytest.raises(TypeError, match="takes no function"):
        w.input.n.size(lambda x: x)
    with pytest.raises(TypeError, match="object has no place"):
        w.input.n == object()  # noqa: B015


def test_faults_of_the_builder_name_the_step() -> None:
    w, other = Workflow("w"), Workflow("other")
    a = w.step("a")
    foreign = other.step("f")
    w.step("b", x=a)
    with pytest.raises(TypeError, match=r"step b, with: give what the step returned: a\.result"):
        w.to_dict()
    with pytest.raises(TypeError, match="step a has no field retries: there are when, run"):
        a.set(retries=3)
    with pytest.raises(ValueError, match="step of another workflow"):
        a.after(foreign)
    with pytest.raises(ValueError, match="two workflows"):
        _ = a.result.x + foreign.result.x
    c = Workflow("w3")
    c.step("t", x=foreign.result)
    with pytest.raises(ValueError, match="step t, with: it belongs to another workflow"):
        c.to_dict()
    d = Workflow("w4")
    d.step("t", x={1, 2})
    with pytest.raises(TypeError, match="step t, with: set is no value of JSON"):
        d.to_dict()
    e = Workflow("w5")
    e.step("t").when("inptu.x")
    with pytest.raises(WorkflowInvalidError, match=r"steps\.t\.when: there is no inptu"):
        e.spec()
    with pytest.raises(ValueError, match=r"\{nobody\} is no field of the run"):
        e.limit("x:{nobody}", max=1)
    with pytest.raises(TypeError, match="a workflow has no field dedline"):
        e.set(dedline=3)


def test_order_without_data() -> None:
    w = Workflow("w")
    a, b, c, d = (w.step(name) for name in "abcd")
    _ = a >> [b, c] >> d
    assert needs(w) == {"a": [], "b": ["a"], "c": ["a"], "d": ["b", "c"]}


def test_the_words_of_celery_set_the_same_order() -> None:
    w = Workflow("w")
    a, b, c, d, e, f = (w.step(name) for name in "abcdef")
    chain(a, group(chain(b, c), d), chord([e], f))
    assert needs(w) == {"a": [], "b": ["a"], "c": ["b"], "d": ["a"], "e": ["c", "d"], "f": ["e"]}
    with pytest.raises(TypeError, match="at least one"):
        chain()


def test_texts_with_terms_and_limits() -> None:
    w = Workflow("w", input={"name": str})
    w.step("t", text=f"Dear {w.input.name}", n=[w.run.id])
    w.limit("crm:{owner}:{input.name}'s", max=2)
    w.limit(w.input.name, max=1, policy="keep_latest")
    made = w.to_dict()
    assert made["steps"]["t"]["with"] == {"text": "Dear ${{ input.name }}", "n": ["${{ run.id }}"]}
    assert [limit["key"] for limit in made["limits"]] == [
        "'crm:' + run.owner + ':' + string(input.name) + '\\'s'", "input.name",
    ]  # fmt: skip
    assert w.spec().limits[0].max == 2


# Random workflows: builder, YAML and JSON are the same document.

_values = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(-(2**63), 2**63 - 1),
        st.floats(allow_nan=False, allow_infinity=False),
        # YAML, and so the reader of both, has no control characters in plain sight
        st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs", "Cn", "Zl", "Zp"])),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.text("abc", min_size=1, max_size=3), inner, max_size=3),
    ),
    max_leaves=6,
)  # fmt: skip


OF_MAPS: list[dict[str, Any]] = [{}, {"parallel": 3, "key": "item.id"}, {"max_failures": "5%"}]
OF_TASKS: list[dict[str, Any]] = [{}, {"retry": 3, "timeout": "2m"}, {"priority": "high"}]
OF_ALL: list[dict[str, Any]] = [{}, {"deadline": "30m", "on_failure": "cancel_running"}]


def chosen(draw: st.DrawFn, choices: list[Any]) -> Any:
    return draw(st.sampled_from(choices))


@st.composite
def workflows(draw: st.DrawFn) -> Workflow:
    w = Workflow("w", input={"url": str, "rows": list, "n": 7}, description=draw(st.text("ab ")))
    steps: list[Any] = []
    for _ in range(draw(st.integers(1, 6))):
        step = _step(draw, w, steps)
        if steps and chosen(draw, [True, False]):
            step.after(chosen(draw, steps))
        if chosen(draw, [True, False]):
            step.when(w.input.n > 3)
        steps.append(step)
    w.set(**chosen(draw, OF_ALL))
    return w


def _step(draw: st.DrawFn, w: Workflow, steps: list[Any]) -> Any:
    variables: dict[str, Any] = draw(st.dictionaries(st.sampled_from("xyz"), _values, max_size=2))
    if steps and chosen(draw, [True, False]):
        other = chosen(draw, steps)
        value = other.results if other.to_dict().get("map") else other.result
        variables["ref"] = chosen(draw, [value, f"got {value}", [value, w.input.n + 1]])
    match chosen(draw, "task map workflow approve repeat".split()):
        case "map":
            mapped = w.map("t", over=w.input.rows, item=w.item, **variables)
            return mapped.set(**chosen(draw, OF_MAPS))
        case "approve":
            return w.approve("ok?", show=variables).set(expires="2d")
        case "workflow":
            return w.workflow("sub", **variables)
        case "repeat":
            repeated = w.step("t", **variables)
            return repeated.repeat(until=w.result.score > draw(st.integers(0, 9)), max=3)
    step = w.step("t", **variables).set(**chosen(draw, OF_TASKS))
    return step.undo("u", on=chosen(draw, ["completed", "started"]))


@settings(max_examples=60, deadline=None)
@given(workflows())
def test_builder_yaml_and_json_are_the_same_document(w: Workflow) -> None:
    document = w.to_dict()
    spec = w.spec()
    for text in (
        json.dumps(document),
        json.dumps(document, ensure_ascii=False, indent=2),
        yaml.safe_dump(document, allow_unicode=True, sort_keys=False),
        yaml.safe_dump(document, default_flow_style=True, sort_keys=False),
    ):
        read = read_text(text, "f")
        assert read.faults == ()
        assert parse(read.value).spec == spec
    assert SCHEMA.is_valid(document)


SCHEMA = jsonschema_rs.validator_for(document_schema())


@pytest.mark.parametrize(
    ("step", "is_valid"),
    [
        ({"task": "t", "timeout": "2m", "retry": 3, "undo": "u", "max_failures": "5%"}, True),
        ({"task": "t", "timeout": {"hard": 5}, "retry": {"max_retries": 1}}, True),
        ({"approve": "?", "expires": 5, "show": [1]}, True),
        ({"workflow": "w", "map": "input.x", "parallel": 2}, True),
        ({"task": "t", "approve": "?"}, False),
        ({}, False),
        ({"task": "t", "timeout": "2 min"}, False),
        ({"task": "t", "parallel": 0}, False),
        ({"task": "t", "run": "sometimes"}, False),
        ({"task": "t", "colour": 1}, False),
        ({"task": "a b"}, False),
    ],
)
def test_the_json_schema_tells_shapes_as_the_model_does(step: Any, is_valid: bool) -> None:
    document = {"workflow": "w", "input": {"x": "array"}, "steps": {"a": step}}
    assert SCHEMA.is_valid(document) is is_valid
    shape = "parallel" not in step and "max_failures" not in step
    assert (check(document)[0] is not None) is is_valid or not shape


def test_every_field_of_the_json_schema_says_what_it_is() -> None:
    schema = document_schema()
    fields = schema["$defs"]["Step"]["properties"]
    bare = [
        name for name, field in fields.items()
        if "description" not in field and "$ref" not in field
    ]  # fmt: skip
    assert bare in ([], ["repeat", "undo"])
