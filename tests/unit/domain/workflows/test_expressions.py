"""Expressions: CEL, counted work, and what they refer to."""

import contextlib
import math
import time
from typing import Any

import pytest
from cel_expr_python import cel
from hypothesis import given, settings
from hypothesis import strategies as st

from celeriac.domain.errors import ExpressionError
from celeriac.domain.expressions import (
    ExpressionSyntaxError,
    Work,
    compiled,
)
from celeriac.domain.expressions.templates import render, text_template

INPUT = {
    "n": 3,
    "half": 0.5,
    "text": "abc",
    "yes": True,
    "nothing": None,
    "list": [1, 2, 3],
    "rows": [{"name": "a", "score": 80}, {"name": "b", "score": 60}],
    "odd name": 1,
}


def value(text: str, **names: Any) -> Any:
    return compiled(text).value({"input": INPUT, **names})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1 + 2 * 3", 7),
        ("(1 + 2) * 3", 9),
        ("7 / 2", 3),
        ("-7 / 2", -3),
        ("-7 % 3", -1),
        ("7.0 / 2.0", 3.5),
        ("input.n * 1.5", 4.5),
        ("1 + input.half", 1.5),
        ("-9223372036854775808", -(2**63)),
        ("0x1F", 31),
        ("1e3", 1000.0),
        ("1 == 1.0", True),
        ("true == 1", False),
        ("'1' == 1", False),
        ("null == input.nothing", True),
        ("[1, 'a'] == [1.0, 'a']", True),
        ("{'a': 1} == {'a': 1.0}", True),
        ("1 < 1.5 && 'a' < 'b'", True),
        ("2 in input.list", True),
        ("'n' in input", True),
        ("'x' in input", False),
        ("input.yes ? 'a' : 'b'", "a"),
        ("!input.yes || input.n > 2", True),
        ("false && input.missing", False),
        ("input.missing && false", False),
        ("true || input.missing", True),
        ("input.list[1]", 2),
        ("input['odd name']", 1),
        ("input.rows[0].name", "a"),
        ("size(input.list) + input.text.size()", 6),
        ("input.rows.filter(r, r.score > 70).map(r, r.name)", ["a"]),
        ("input.rows.map(r, r.score > 70, r.name)", ["a"]),
        ("input.rows.all(r, r.score > 70)", False),
        ("input.rows.exists(r, r.score > 70)", True),
        ("input.rows.exists_one(r, r.score > 70)", True),
        ("input.list.exists(x, x / 0 == 1 || x == 3)", True),
        ("has(input.n) && !has(input.missing)", True),
        ("'a' + string(1) + string(1.5) + string(true)", "a11.5true"),
        ("string(0.123456789) + string(2.0) + string(1e21)", "0.12345678921e+21"),
        ("int('12') + int(3.9) + int(-3.9)", 12),
        ("double('1.5')", 1.5),
        ("bool('true')", True),
        ("'A,b'.lowerAscii().split(',')", ["a", "b"]),
        ("['a', 'b'].join('-')", "a-b"),
        ("' a '.trim().upperAscii()", "A"),
        ("'abcabc'.replace('b', 'x').substring(1, 3)", "xc"),
        ("'abc'.contains('b') && 'abc'.startsWith('a') && 'abc'.endsWith('c')", True),
        ("'abc'.indexOf('c')", 2),
        ("{'a': input.n, 'b': [input.text]}", {"a": 3, "b": ["abc"]}),
        ("r'\\n' + '\\n\\x41\\u00e9\\101'", "\\n\nAéA"),
        ('"""a\n"b\'"""', "a\n\"b'"),
        ("1 // a comment\n + 1", 2),
        ("[1, 2,]", [1, 2]),
        ("1 < 2 == true", True),
    ],
)
def test_values(text: str, expected: Any) -> None:
    found = value(text)
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("input.missing", "input.missing: there is no field 'missing'"),
        ("input.nothing.x", "null has no fields"),
        ("input.text + 1", "write string(…) around the other value"),
        ("input.list[3]", "there is no element 3 in a list of 3"),
        ("1 / 0", "by zero"),
        ("1.0 / 0.0", "by zero"),
        ("1e308 * 10.0", "too large"),
        ("9223372036854775807 + 1", "beyond 64 bits"),
        ("-(-9223372036854775807 - 1)", "beyond 64 bits"),
        ("int(1e30)", "beyond 64 bits"),
        ("input.n > 'a'", "can't be compared by size"),
        ("input.n && true", "write a comparison"),
        ("size(1)", "size needs"),
        ("item", "item has no value here"),
        ("{'a': 1, 'a': 2}", "twice"),
        ("input.n.map(x, x)", "map needs a list"),
        ("1 in 2", "'in' needs"),
    ],
)
def test_errors_name_the_expression_and_the_cure(text: str, message: str) -> None:
    with pytest.raises(ExpressionError) as caught:
        value(text)
    assert message in caught.value.message
    assert caught.value.message.startswith(text[:20])
    assert caught.value.code == "expression_error"


@pytest.mark.parametrize(
    ("text", "offset", "message"),
    [
        ("", 0, "ends too early"),
        ("a +", 3, "ends too early"),
        ("a = 1", 2, "write =="),
        ("a and b", 2, "write &&"),
        ("(a", 2, ") is missing before the end"),
        ("'abc", 0, "add the second quote"),
        ("'a\\q'", 2, "no escape"),
        ("1u", 0, "no unsigned numbers"),
        ("b'a'", 0, "no bytes"),
        ("a.b.len()", 4, "write size"),
        ("sized(a)", 0, "did you mean size?"),
        ("now()", 0, "could then not be repeated"),
        ("a.in", 2, '["in"]'),
        ("a.?b", 2, "write has(a.b)"),
        ("a.map(1, 2)", 6, "needs a new name"),
        ("a.filter(x)", 2, "takes 2 arguments, not 1"),
        ("has(a)", 4, "has needs a field"),
        ("if", 0, "condition ? a : b"),
        ("9223372036854775808", 0, "beyond 64 bits"),
        ("(" * 40 + "1" + ")" * 40, 32, "too deeply"),
        ("+".join("a" * 300), 255, "too deeply"),
        ("a # b", 2, "has no meaning here"),
        ("-" * 1_900 + "1", 31, "too deeply"),
    ],
)
def test_faults_of_syntax_name_place_and_cure(text: str, offset: int, message: str) -> None:
    with pytest.raises(ExpressionSyntaxError) as caught:
        compiled(text)
    assert message in caught.value.message
    assert caught.value.offset == offset


def test_references_are_paths_without_the_names_of_macros() -> None:
    text = (
        "steps.a.result.rows.filter(r, r.x > input.min)[0].name + steps['b'].error.code"
        " + (has(run.error) ? '' : item)"
    )
    found = compiled(text).references
    assert [each.path for each in found] == [
        ("steps", "a", "result", "rows"),
        ("input", "min"),
        ("steps", "b", "error", "code"),
        ("run", "error"),
        ("item",),
    ]
    assert found[3].optional
    assert text[found[2].offset :].startswith("steps['b']")
    assert compiled("steps.a.result").path == ("steps", "a", "result")
    assert compiled("steps.a.result[0]").path is None


@pytest.mark.parametrize(
    "text",
    [
        "l.all(a, l.all(b, l.all(c, l.all(d, true))))",
        "l.map(a, l.map(b, l))",
        "l.all(a, l == m)",
        "['" + "x" * 900 + "']" + ".map(a, a + a)" * 25,
        "[l]" + ".map(a, a + a)" * 25,
        "l.filter(a, a in l).size()",
        "l.map(a, t.contains('y'))",
        "l.map(a, t)",
    ],
)
def test_work_is_bounded_where_the_data_would_make_it_endless(text: str) -> None:
    rows = [{"id": each} for each in range(5_000)]
    names = {"l": rows, "m": [dict(row) for row in rows], "t": "x" * 900_000}
    begun = time.process_time()
    with pytest.raises(ExpressionError, match=r"works too long|over 1,000,000 characters"):
        compiled(text).value(names)
    assert time.process_time() - begun < 20


def test_a_filter_of_ten_thousand_rows_is_within_the_limit() -> None:
    rows = [{"id": each, "score": each % 100} for each in range(10_000)]
    found = compiled("l.filter(r, r.score > 70 && r.id > 5).map(r, {'id': r.id})").value(
        {"l": rows}
    )
    assert len(found) == 2_900


def test_work_is_shared_between_expressions() -> None:
    work = Work(8)
    compiled("1 + 1").value({}, work)
    compiled("1 + 1").value({}, work)
    with pytest.raises(ExpressionError, match="works too long"):
        compiled("1 + 1").value({}, work)


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("${{ input.n }}", 3),
        (" ${{ input.list }} ", [1, 2, 3]),
        ("n is ${{ input.n }}", "n is 3"),
        ("${{ input.text }}-${{ input.nothing }}-${{ input.list }}", "abc--[1,2,3]"),
        ("${{ {'a': {'b': 1}} }}", {"a": {"b": 1}}),
        ("${{ '}}' + \"}}\" }}", "}}}}"),
        ("$${{ input.n }}", "${{ input.n }}"),
        ("plain }} {{ x", "plain }} {{ x"),
        ({"a": ["${{ input.n + 1 }}", 5, None]}, {"a": [4, 5, None]}),
    ],
)
def test_templates(template: Any, expected: Any) -> None:
    assert render(template, {"input": INPUT}) == expected


@pytest.mark.parametrize(
    ("text", "offset", "message"),
    [
        ("ab ${{ input.", 6, "add }}"),
        ("ab ${{ input. }}", 13, "a name must follow the dot"),
        ("${{ }}", 4, "ends too early"),
        ("${{ 'a }}", 4, "second quote"),
        ("${{ a }} ${{ b c }}", 15, "isn't expected"),
    ],
)
def test_faults_of_templates_have_their_place_in_the_text(
    text: str, offset: int, message: str
) -> None:
    with pytest.raises(ExpressionSyntaxError) as caught:
        text_template(text)
    assert message in caught.value.message
    assert caught.value.offset == offset


# The reference implementation of CEL is the judge of everything that both accept.

_TYPE = cel.Type.DYN
_JUDGE = cel.NewEnv(variables={"input": _TYPE, "x": _TYPE})

_atoms = st.sampled_from(
    "input.n input.half input.text input.yes input.nothing input.list input.rows x 0 1 2 -1 1.5 "
    "'a' 'abc' '' true false null [] {} input.rows[0] input.missing".split()
)


def _combined(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    signs = "+ - * / % == != < <= > >= in && ||".split()
    return st.one_of(
        st.tuples(inner, st.sampled_from(signs), inner).map(lambda t: f"({t[0]} {t[1]} {t[2]})"),
        st.tuples(inner, inner, inner).map(lambda t: f"({t[0]} ? {t[1]} : {t[2]})"),
        inner.map(lambda a: f"(!({a}))"),
        st.tuples(st.sampled_from("all exists exists_one filter map".split()), inner, inner).map(
            lambda t: f"{t[1]}.{t[0]}(x, {t[2]})" if not t[1][0].isdigit() else t[2]
        ),
        st.tuples(inner, inner).map(lambda t: f"[{t[0]}, {t[1]}]"),
        st.tuples(inner, st.sampled_from("contains startsWith endsWith".split()), inner).map(
            lambda t: f"({t[0]}).{t[1]}({t[2]})"
        ),
        inner.map(lambda a: f"size({a})"),
        inner.map(lambda a: f"({a}).name"),
    )


@settings(max_examples=150, deadline=None)
@given(st.recursive(_atoms, _combined, max_leaves=8))
def test_values_are_those_of_the_reference_implementation(text: str) -> None:
    names: dict[str, Any] = {"input": INPUT, "x": [1, "a"]}
    try:
        judged = _JUDGE.compile(text).eval(data=names)
    except RuntimeError:  # refused by its checker of types, or by its limits
        return
    try:
        found = compiled(text).value(names)
    except ExpressionError:
        assert _ours_may_fail(judged), (text, judged.plain_value())
        return
    if judged.type() == cel.Type.ERROR:
        # integers and fractions can be calculated with together: the one extension
        assert "overloads" in str(judged.value()) or "no such" in str(judged.value()), text
        return
    assert _same(found, judged.plain_value()), (text, found, judged.plain_value())


def _ours_may_fail(judged: Any) -> bool:
    plain = judged.plain_value()
    infinite = isinstance(plain, float) and not math.isfinite(plain)
    return judged.type() == cel.Type.ERROR or infinite or "inf" in str(plain) or "nan" in str(plain)


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, list):
        return len(one) == len(other) and all(map(_same, one, other))
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    return type(one) is type(other) and one == other


@settings(max_examples=150, deadline=None)
@given(
    st.one_of(
        st.text(max_size=60),
        st.text(alphabet="ab.()[]{}'\"\\$+-*/%!&|<>=?:, 01eux\n", max_size=60),
        st.recursive(_atoms, _combined, max_leaves=8).flatmap(
            lambda text: st.integers(0, len(text)).map(lambda at: text[:at] + text[at + 1 :])
        ),
    )
)
def test_garbage_is_refused_or_has_a_value(text: str) -> None:
    with contextlib.suppress(ExpressionSyntaxError, ExpressionError):
        compiled(text).value({"input": INPUT})
    with contextlib.suppress(ExpressionSyntaxError, ExpressionError):
        render("${{" + text, {"input": INPUT})


def test_long_texts_and_expressions_are_bounded() -> None:
    with pytest.raises(ExpressionSyntaxError, match="at most 2,000 characters"):
        compiled("a" * 2_001)
    many = "${{ input.n }}-" * 1_001
    with pytest.raises(ExpressionSyntaxError, match="at most 1,000 expressions"):
        text_template(many)
    assert render(many[:15_000], {"input": INPUT}) == "3-" * 1_000


@pytest.mark.parametrize(
    "text", ["1e999", "int(1e999)", "[-1e999]", "1" * 400 + ".0", "--9223372036854775808"]
)
def test_numbers_that_json_does_not_have_are_refused(text: str) -> None:
    with pytest.raises(ExpressionSyntaxError, match=r"too large|beyond 64 bits"):
        compiled(text)


@pytest.mark.parametrize(
    "text",
    [
        "l.map(r, size(t.lowerAscii()))",
        "l.exists(r, o[t] == 1)",
        "l.exists(r, {t: 1, t: 2} == o)",
        "l.map(r, {t: 1})",
    ],
)
def test_long_texts_cost_what_they_take(text: str) -> None:
    names: dict[str, Any] = {"l": list(range(10_000)), "t": "é\0" * 400_000, "o": {}}
    begun = time.process_time()
    with pytest.raises(ExpressionError) as raised:
        compiled(text).value(names)
    assert time.process_time() - begun < 5
    assert len(raised.value.message) < 500


def test_letters_beyond_ascii_stay_as_they_are() -> None:
    assert value("'ÀbC\\u00df'.lowerAscii() + 'éx'.upperAscii()") == "Àbc\u00dféX"


def test_a_template_places_the_same_data_only_so_often() -> None:
    names = {"input": {"large": "x" * 1_000_000, "rows": list(range(100_000))}}
    once = {"text": "${{ input.large }}", "rows": "${{ input.rows }}"}
    assert render(once, names) == {"text": names["input"]["large"], "rows": names["input"]["rows"]}
    for path in ("large", "rows"):
        many = {f"f{number}": f"${{{{ input.{path} }}}}" for number in range(1_000)}
        with pytest.raises(ExpressionError, match="works too long"):
            render(many, names)
