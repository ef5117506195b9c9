"""Documents of workflows: what is refused, with step, field and cure; and any garbage."""

import time
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from celeriac.domain.errors import WorkflowInvalidError
from celeriac.domain.workflows.document import MAX_FAULTS, check, parse
from celeriac.domain.workflows.model import MAX_STEPS, WorkflowSpec
from celeriac.domain.workflows.validation import Catalog, TaskFacts, targets
from celeriac.kit.yaml_text import read_text


def faults(document: Any, catalog: Catalog | None = None) -> list[str]:
    return [str(fault) for fault in check(document, catalog)[1]]


def of_step(*, id_: str = "b", **step: Any) -> list[str]:
    """Return the faults of a step beside two good ones: `a`, and `m` with a map."""
    return faults(
        {
            "workflow": "w",
            "input": {"url": "string", "rows": "array", "deep": {"type": "object"}},
            "steps": {
                "a": {"task": "t"},
                "m": {"task": "t", "map": "input.rows"},
                "last": {"task": "t", "run": "always"},
                id_: {"task": "t", **step},
            },
        }
    )


@pytest.mark.parametrize(
    "step",
    [
        {},
        {"with": {"x": "${{ input.url }}", "y": "${{ steps.a.result.deep.er }}"}},
        {"with": {"x": "${{ input.deep.anything }} ${{ run.error }}"}},
        {"needs": ["a", "m"], "when": "steps.a.status == 'completed' && input.url != ''"},
        {"when": "input.deep.flag"},
        {"map": "steps.m.results", "with": {"x": "${{ item.y + index }}"}, "key": "item.id"},
        {"map": "[1, 2]", "parallel": 3, "max_failures": "5%", "on_failure": "continue"},
        {"repeat": {"until": "result.score > 8 || index > 2", "max": 4},
         "with": {"last": "${{ result }}"}},
        {"run": "failure", "needs": ["last", "a"]},
        {"undo": "u"},
        {"undo": {"task": "u", "on": "started"}, "retry": 0, "timeout": "1h30m", "queue": "gpu"},
        {"timeout": {"soft": 10, "hard": "20s"}, "priority": "high", "retry": {"max_retries": 1}},
    ],
)  # fmt: skip
def test_good_steps(step: dict[str, Any]) -> None:
    assert of_step(**step) == []


@pytest.mark.parametrize(
    ("step", "message"),
    [
        ({"tsk": "x"}, "step b, tsk: there is no field tsk: did you mean task?"),
        ({"colour": 1}, "step b, colour: there is no field colour: there are task, workflow"),
        ({"retry": {"max": 1}}, "step b, retry.max: there is no field max: remove it"),
        ({"task": None}, "step b: a step has exactly one of task, workflow and approve: add one"),
        ({"workflow": "w"}, "not task and workflow"),
        ({"task": 5}, "step b, task: it must be a valid string; put it in quotes"),
        ({"needs": ["aa"]}, "step b, needs.0: there is no step aa; did you mean a?"),
        ({"needs": ["b"]}, "a step can't need itself"),
        ({"needs": ["a", "a"]}, "a is there twice"),
        ({"needs": ["last"]}, "it needs last, which runs after all ordinary steps"),
        ({"when": "steps.last.result"}, "it needs last, which runs after all ordinary steps"),
        ({"when": "steps.b.result"}, "a step can't refer to itself"),
        ({"when": "steps.zz.result"}, "step b, when: there is no step zz"),
        ({"when": "steps.a.resul"}, "a step has no resul: write steps.a.result"),
        ({"when": "steps.a"}, "name what of the step: write steps.a.result"),
        ({"when": "steps.m"}, "write steps.m.results"),
        ({"when": "steps"}, "name the step"),
        ({"when": "steps[input.url].result"}, "name the step"),
        ({"when": "steps.m.result == 1"}, "m is a map: write steps.m.results"),
        ({"when": "steps.a.results == []"}, "a is no map: write steps.a.result"),
        ({"when": "input.ulr == ''"}, "the input has no ulr; did you mean url?"),
        ({"when": "inptu.url == ''"}, "there is no inptu; did you mean input?"),
        ({"when": "a.result > 2"}, "there is no a; write steps.a.result"),
        ({"when": "item > 2"}, "item has no value here"),
        ({"when": "result > 2"}, "result has no value here"),
        ({"when": "run.ownr == 'x'"}, "run has no ownr; did you mean owner?"),
        ({"when": "input.url + 'x'"}, "must give true or false: write a comparison"),
        ({"when": "false"}, "the step never runs"),
        ({"when": "${{ input.url }}"}, "write it without ${{ }}"),
        ({"when": "input.url ="}, "= isn't expected here; write =="),
        ({"with": {"x": ["a ${{ input. }}"]}}, "step b, with.x.0: a name must follow the dot"),
        ({"map": "'abc'"}, "map needs a list"),
        ({"map": "[1]", "key": "[item]"}, "a key must be a text or a number"),
        ({"key": "'a'"}, "step b, key: only a map has it"),
        ({"parallel": 2}, "step b, parallel: only a map has it"),
        ({"parallel": 0, "map": "[1]"}, "greater than or equal to 1"),
        ({"max_failures": "5 %", "map": "[1]"}, "a share such as 5%"),
        ({"map": "[1]", "repeat": {"until": "true", "max": 2}}, "a map can't be repeated"),
        ({"repeat": {"until": "true"}}, "step b, repeat.max: it is missing"),
        ({"run": "sometimes"}, "'success', 'failure' or 'always'"),
        ({"run": "always", "undo": "u"}, "isn't undone"),
        ({"timeout": {"soft": 20, "hard": 10}}, "soft must not be more than hard"),
        ({"timeout": "2 min"}, "45s, 2m, 1h30m or 2d"),
        ({"timeout": ""}, "45s, 2m, 1h30m or 2d"),
        ({"timeout": "0s"}, "greater than 0"),
        ({"retry": True}, "write a number of retries"),
        ({"expires": "2d"}, "step b, expires: a step with task can't have it"),
        ({"id_": "in"}, "in is a word of CEL"),
        ({"id_": "a-b"}, "use letters, digits and '_' only"),
        ({"id_": ""}, "this can't be the id of a step"),
        ({"task": None, "workflow": "x", "retry": 3}, "give it to the steps of that workflow"),
        ({"task": None, "approve": "?", "retry": 3}, "an approval runs nothing"),
        ({"task": None, "approve": "?", "map": "[1]"}, "step b, map: a step with approve"),
        (
            {"task": None, "approve": "Pay ${{ input.n }}?"},
            "step b, approve: the question is shown as it is written: it can't have expressions",
        ),
    ],
)
def test_faults_of_a_step_name_field_and_cure(step: dict[str, Any], message: str) -> None:
    found = of_step(**step)
    assert message in "\n".join(found)
    assert len(found) <= 2


@pytest.mark.parametrize(
    ("document", "message"),
    [
        (5, "must be an object"),
        ([], "must be an object"),
        ({}, "workflow: it is missing"),
        ({"workflow": "w"}, "steps: there must be an object of steps"),
        ({"workflow": "w", "steps": []}, "steps: there must be an object of steps"),
        ({"workflow": "w", "steps": {}}, "at least one step"),
        ({"workflow": "a b", "steps": {"a": {"task": "t"}}}, "workflow: begin with a letter"),
        ({"workflow": "w", "steps": {"a": 5}}, "step a: it must be an object with fields"),
        ({"workflow": "w", "steps": {"a": {"task": "t"}}, "stpes": 1}, "did you mean steps?"),
        ({"workflow": "w", "steps": {"a": {"task": "t"}}, "input": {"x": "text"}},
         "x must be a type (string, integer"),
        ({"workflow": "w", "steps": {"a": {"task": "t"}}, "input": {"x": {"type": "strng"}}},
         "input is not a valid JSON Schema"),
        ({"workflow": "w", "steps": {"a": {"task": "t"}},
          "input": {"x": {"type": "integer", "default": "y"}}}, "input.x: its default doesn't fit"),
        ({"workflow": "w", "steps": {"a": {"task": "t"}},
          "limits": [{"key": "steps.a.result", "max": 3}]}, "no step has run yet"),
        ({"workflow": "w", "steps": {"a": {"task": "t"}}, "returns": "${{ steps.b.result }}"},
         "returns: there is no step b"),
        ({"workflow": "w", "steps": {"a": {"task": "t", "with": {"x": 2**70}}}}, "64 bits"),
    ],
)  # fmt: skip
def test_faults_of_the_whole(document: Any, message: str) -> None:
    assert message in "\n".join(faults(document))


def test_all_faults_are_found_at_once_in_the_order_of_the_document() -> None:
    found = faults(
        {
            "workflow": "w",
            "steps": {
                "one": {"task": "t", "timeout": "x", "when": "input.zz"},
                "two": {"task": "t", "needs": ["thre"]},
                "three": {"task": "t", "with": {"x": "${{ steps.two.resul }}"}},
            },
            "colour": 1,
        }
    )
    assert [fault.partition(":")[0] for fault in found] == [
        "step one, timeout", "step one, when", "step two, needs.0", "step three, with.x", "colour",
    ]  # fmt: skip


def test_a_cycle_is_shown_as_its_path() -> None:
    steps = {
        "a": {"task": "t", "needs": ["c"]},
        "b": {"task": "t", "with": {"x": "${{ steps.a.result }}"}},
        "c": {"task": "t", "when": "steps.b.status == 'completed'"},
        "d": {"task": "t", "needs": ["a"]},
    }
    (found,) = faults({"workflow": "w", "steps": steps})
    shown = found.partition("each other: ")[2].partition(";")[0].split(" → ")
    assert shown[0] == shown[-1]
    needs = {"a": "c", "b": "a", "c": "b"}
    assert all(needs[later] == earlier for earlier, later in pairwise(shown))


def test_steps_are_checked_against_their_tasks() -> None:
    text = {"type": "string"}
    lead = TaskFacts(
        {
            "type": "object",
            "properties": {"lead": {"type": "object"}, "region": {**text, "enum": ["eu", "us"]}},
            "required": ["lead"],
            "additionalProperties": False,
        },
        {"type": "object", "properties": {"score": {}}, "additionalProperties": False},
    )
    catalog = Catalog({"qualify": lead}, {"sub": {"type": "object", "required": ["x"]}})
    document = {
        "workflow": "w",
        "steps": {
            "good": {"task": "qualify", "with": {"lead": "${{ run.id }}", "region": "eu"}},
            "bad": {"task": "qualify", "with": {"region": "de", "leed": 1}, "undo": "qualifi"},
            "none": {"task": "qualfy"},
            "sub": {"workflow": "sub", "with": {"x": "${{ steps.good.result.scor }}"}},
            "other": {"workflow": "sub"},
            "third": {"workflow": "sun"},
        },
    }
    found = faults(document, catalog)
    assert [fault.rstrip() for fault in found] == [
        "step bad, undo.task: there is no task qualifi; did you mean qualify?",
        "step bad, with: the task qualify needs lead: add it to with",
        found[2],
        "step bad, with.leed: the task qualify has no leed; did you mean lead?",
        "step none, task: there is no task qualfy; did you mean qualify?",
        "step sub, with.x: the result of good has no scor; did you mean score?",
        "step other, with: the workflow sub needs x: add it to with",
        "step third, workflow: there is no workflow sun; did you mean sub?",
    ]
    assert found[2].startswith("step bad, with.region: it doesn't fit the task qualify")
    assert faults(document) == []
    assert targets(parse(document).spec).tasks == {"qualify", "qualifi", "qualfy"}
    assert targets(parse(document).spec).workflows == {"sub", "sun"}


def test_sizes_are_limited() -> None:
    many = {f"s{index}": {"task": "t"} for index in range(MAX_STEPS + 1)}
    assert "the limit is 500" in faults({"workflow": "w", "steps": many})[0]
    assert (
        "as JSON"
        in faults({"workflow": "w", "steps": {"a": {"task": "t", "with": {"x": "y" * 300_000}}}})[0]
    )
    wrong = {f"s{index}": {"task": 5} for index in range(MAX_STEPS)}
    found = faults({"workflow": "w", "steps": wrong})
    assert len(found) == MAX_FAULTS
    assert "more faults" in found[-1]
    with pytest.raises(WorkflowInvalidError) as caught:
        parse({"workflow": "w", "steps": wrong})
    assert caught.value.code == "workflow_invalid"
    assert caught.value.places[0][0] == "steps.s0.task"


def test_the_largest_graph_is_checked_in_bounded_time() -> None:
    steps: dict[str, Any] = {}
    for index in range(MAX_STEPS):
        needs = [f"s{each}" for each in range(max(0, index - 50), index)]
        steps[f"s{index}"] = {"task": "t", "needs": needs}
    unknown = [f"u{each}" for each in range(40)]
    wrong = {f"s{index}": {"task": "t", "needs": unknown} for index in range(MAX_STEPS)}
    begun = time.process_time()
    assert faults({"workflow": "w", "steps": steps}) == []
    assert len(faults({"workflow": "w", "steps": wrong})) == MAX_FAULTS
    assert time.process_time() - begun < 10


def test_a_stored_specification_reads_as_the_same() -> None:
    workflow = parse(
        {
            "workflow": "w",
            "input": {"a": "string?", "b": {"type": "integer", "default": 7}},
            "limits": [{"key": "run.owner", "max": 3}],
            "deadline": "30m",
            "steps": {
                "a": {"task": "t", "retry": 3, "timeout": "2m", "undo": "u", "priority": "high"},
                "m": {"task": "t", "map": "[1]", "max_failures": "5%"},
                "q": {"approve": "?", "expires": "2d"},
            },
        }
    )
    for stored in (
        workflow.spec.model_dump(mode="json"),
        workflow.spec.model_dump(mode="json", exclude_defaults=True),
    ):
        assert WorkflowSpec.model_validate(stored) == workflow.spec
    assert workflow.spec.steps["a"].timeout.soft == 96
    assert workflow.spec.steps["q"].expires == 172_800
    assert workflow.spec.input["properties"]["a"] == {"type": ["string", "null"]}


def test_a_stored_specification_keeps_the_order_of_the_steps() -> None:
    steps = {"long_name": {"task": "t"}, "b": {"task": "t"}, "a": {"task": "t"}}
    spec = parse({"workflow": "w", "steps": steps}).spec
    stored = spec.model_dump(mode="json", exclude_defaults=True)
    stored["steps"] = dict(sorted(stored["steps"].items()))  # as jsonb does
    assert list(WorkflowSpec.model_validate(stored).steps) == ["long_name", "b", "a"]
    wrong = {**stored, "order": ["b", 5, "b", "zz"]}
    assert list(WorkflowSpec.model_validate(wrong).steps) == ["b", "a", "long_name"]
    assert faults({"workflow": "w", "steps": steps, "order": ["a"]})[0].startswith(
        "order: there is no"
    )


# Garbage

_keys = st.sampled_from(
    "workflow description input steps limits deadline on_failure priority returns task approve "
    "with needs when run map key parallel max_failures repeat undo retry timeout queue show "
    "expires a b until max hard soft type properties default".split()
)
_texts = st.one_of(
    st.sampled_from(
        ["a", "b", "t", "${{ steps.a.result }}", "steps.b.results", "${{ x", "5%", "2m", "always",
         "item", "input.a", "$${{", "${{ }}", "\x00", "\ud800", "1e999", "string", "object"]
    ),
    st.text(max_size=20),
)  # fmt: skip
_garbage = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), _texts),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(st.one_of(_keys, st.text(max_size=8)), inner, max_size=5),
    ),
    max_leaves=25,
)


@settings(max_examples=150, deadline=None)
@given(
    st.one_of(
        _garbage,
        st.fixed_dictionaries(
            {
                "workflow": st.just("w"),
                "steps": st.dictionaries(
                    st.sampled_from(["a", "b", "c"]), st.dictionaries(_keys, _garbage, max_size=6)
                ),
            },
            optional={"input": _garbage, "limits": _garbage, "returns": _garbage},
        ),
    )
)
def test_garbage_gives_faults_and_no_other_error(document: Any) -> None:
    workflow, found = check(document)
    assert (workflow is None) == bool(found)
    assert len(found) <= MAX_FAULTS
    if workflow is not None:
        assert WorkflowSpec.model_validate(workflow.spec.model_dump(mode="json")) == workflow.spec


@settings(max_examples=150, deadline=None)
@given(
    st.one_of(
        st.text(max_size=200),
        st.text(alphabet="abw: -\n{}[]\"'&*!|>%#,$\t0", max_size=200),
    )
)
def test_garbage_of_text_gives_a_value_or_faults(text: str) -> None:
    read = read_text(text, "f.yaml")
    if not read.faults:
        for fault in check(read.value)[1]:
            read.place(fault.path, fault.offset)
