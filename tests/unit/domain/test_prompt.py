"""Prompt templates: what they can do, and what they can't."""

import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celeriac.domain.errors import TemplateInvalidError, TemplateRenderError, UnavailableError
from celeriac.domain.prompts import (
    MAX_LOOP_ROUNDS,
    MAX_RENDERED_CHARACTERS,
    Prompt,
    WorkLimit,
    check_template,
    compiled,
)


def render(source: str, **variables: Any) -> str:
    return Prompt(source).render(variables)


@pytest.mark.requirement("A6")
@pytest.mark.parametrize(
    ("source", "rendered"),
    [
        ("Write to {{ name }}.", "Write to Ada."),
        ("{{ lead.company }}: {{ lead['size'] }}", "Acme: 3"),
        ("{% for tag in tags %}{{ loop.index }}={{ tag }} {% endfor %}", "1=b 2=a "),
        ("{% if lead.size > 2 %}big{% else %}small{% endif %}", "big"),
        ("{{ tags | sort | join(', ') }}", "a, b"),
        ("{{ tags | tojson }}", '["b","a"]'),
        ("{{ {'b': 1, 'a': tags} | tojson }}", '{"b":1,"a":["b","a"]}'),
        ("{{ nothing | default('none') }}", "none"),
        ("{% if nothing is defined %}yes{% else %}no{% endif %}", "no"),
        ("{% for key, value in lead.items() %}{{ key }} {% endfor %}", "company size "),
        ("{{ 'a' + name }} {{ 7 % 4 }} {{ 7 // 2 }}", "aAda 3 3"),
        ("{{ name[:2] }} {{ name | upper | length }}", "Ad 3"),
        ("{% for n in range(3) %}{{ n }}{% endfor %}", "012"),
        ("{{ '<b>' }}", "<b>"),
        ("{# nothing of this #}{% raw %}{{ as it is }}{% endraw %}", "{{ as it is }}"),
    ],
)
def test_what_templates_are_for(source: str, rendered: str) -> None:
    lead = {"company": "Acme", "size": 3}
    assert render(source, name="Ada", lead=lead, tags=["b", "a"]) == rendered


ESCAPES = [
    "{{ ''.__class__ }}",
    "{{ ''['__class__'] }}",
    "{{ ''|attr('__class__') }}",
    "{{ x.__init__.__globals__ }}",
    "{{ (x|string).__class__.__mro__ }}",
    "{{ ''.format(x) }}",
    "{{ '{0.__class__}'.format(x) }}",
    "{{ '%s' % x }}",
    "{{ '%1000000000s' % 'a' }}",
    "{{ self }}",
    "{{ self._TemplateReference__context }}",
    "{{ cycler.__init__ }}",
    "{{ lipsum() }}",
    "{{ namespace(a=1) }}",
    "{{ dict(a=1) }}",
    "{{ joiner() }}",
    "{{ config }}",
    "{{ request }}",
    "{{ x.items.__func__ }}",
    "{{ x.pop('a') }}",
    "{{ x.update({'a': 2}) }}",
    "{{ x.clear() }}",
    "{{ tags.append(1) }}",
    "{{ ''.join(['a']) }}",
    "{{ 'a'.upper() }}",
    "{{ loop.__class__ }}",
    "{% for a in tags %}{{ loop.__init__ }}{% endfor %}",
    "{% for a in tags %}{{ loop._iterator }}{% endfor %}",
    "{% for a in tags %}{{ loop.cycle.__globals__ }}{% endfor %}",
    "{{ range.__class__ }}",
    "{{ range(1).__class__ }}",
    "{{ tags|map('upper')|list }}",
    "{{ tags|map(attribute='__class__')|list }}",
    "{{ tags|sort(attribute='__class__') }}",
    "{{ tags|groupby('__class__') }}",
    "{{ x|pprint }}",
    "{{ x|xmlattr }}",
    "{{ x|random }}",
    "{{ '<script>'|safe }}",
    "{% import 'os' as os %}",
    "{% include '/etc/passwd' %}",
    "{% extends 'base' %}",
    "{% macro m() %}{{ caller() }}{% endmacro %}{{ m() }}",
    "{% set a = 1 %}",
    "{% set a %}b{% endset %}",
    "{% block a %}{% endblock %}",
    "{% filter upper %}a{% endfilter %}",
    "{% call m() %}{% endcall %}",
    "{% with a = 1 %}{{ a }}{% endwith %}",
    "{% do x.clear() %}",
    "{% autoescape true %}{% endautoescape %}",
    "{{ x is callable }}",
    "{{ __celeriac_rounds }}",
    "{{ __celeriac_rounds.left }}",
    "{{ 2 ** 1000000000 }}",
    "{{ 9999 * 9999 }}",
    "{{ 'a' * 1000000000 }}",
    "{{ [1] * 1000000000 }}",
    "{{ 'a' ~ 'b' }}",
    "{{ tags + tags }}",
    "{{ 'a' % x }}",
]


@pytest.mark.parametrize("source", ESCAPES)
def test_there_is_no_way_out_of_the_sandbox(source: str) -> None:
    variables = {"x": {"a": 1}, "tags": ["b", "a"]}
    with pytest.raises((TemplateInvalidError, TemplateRenderError)):
        render(source, **variables)
    assert variables == {"x": {"a": 1}, "tags": ["b", "a"]}, "the variables were changed"


LONG = "x" * 3_000_000
MANY = list(range(200_000))


def often(body: str) -> str:
    return "{% for i in range(9000) %}" + body + "{% endfor %}"


BOMBS = {
    "a long loop": "{% for i in range(100000) %}x{% endfor %}",
    "loops in loops": "{% for i in range(101) %}{% for j in range(101) %}{% endfor %}{% endfor %}",
    "a silent loop": "{% for i in many %}{% endfor %}",
    "a filtered loop": "{% for i in many if i < 0 %}{% endfor %}",
    "a loop of its own lists": often("{% if many|sort|length > 1 %}{% endif %}"),
    "a range in a loop": often("{% if range(99999)|list|length %}{% endif %}"),
    "a huge range": "{{ range(99999)|list|length }}" * 3_000,
    "a range of ranges": "{{ range(10000000000000) }}",
    "filters without end": "{{ many|sort|unique|list|length }}" * 3_000,
    "a long text": "{{ long }}",
    "texts that add up": "{{ (" + "+".join(["long"] * 2_000) + ")|length }}",
    "joined texts": "{% if many|join(long)|length %}{% endif %}",
    "the same again and again": often("{{ long|upper|length }}"),
    "one text after the other": often("{{ half }}"),
    "json again and again": often("{% if many|tojson == '' %}{% endif %}"),
    "padding": "{{ 'a'|truncate(5, true, long) }}",
    "a precise round": "{{ 1|round(zeros, 'ceil') }}",
    "a round before the point": "{{ 5|round(-zeros) }}",
    "a round written out": "{{ 1|round(12000000, 'ceil') }}",
    "a round by name": "{{ 1|round(method='floor', precision=-12000000) }}",
    "trimming many characters": "{{ long|trim(half + half) }}",
    "trimming a little, often": often("{{ long|trim('xyz')|length }}"),
    "the same text many times": "{{ [" + "long," * 60 + "]|tojson|length }}",
    "the same text as text": "{{ [" + "long," * 60 + "]|string|length }}",
    "the same text written": "{{ [" + "long," * 60 + "] }}",
    "the same text in itself": "{{ " + "{'a':" * 40 + "[long, long]" + "}" * 40 + "|tojson }}",
    "letters in order": "{{ long|list|sort }}",
    "a list in order": "{{ many|sort|length }}" * 20,
    "long names in order": "{{ [" + "half," * 400 + "]|sort|length }}",
    "the least of long names": "{{ [" + "half," * 400 + "]|min|length }}",
    "unique long names": "{{ [" + "half," * 400 + "]|unique|length }}",
    "comparing lists": "{{ pairs == others }}" * 50,
    "comparing texts": often("{{ long == like }}"),
    "the order of texts": often("{{ long < like }}"),
    "looking for an element": "{{ -1 in many }}" * 50,
    "looking for a text": often("{{ (half[:30000] + 'y') in long }}"),
    "steps through a text": often("{{ half[::2]|length }}"),
    "backwards": often("{{ half|reverse|length }}"),
    "steps through a list": often("{{ many[1:]|length }}"),
    "titles": often("{{ words|title|length }}"),
    "words": often("{{ words|wordcount }}"),
    "capitals": often("{{ half|capitalize|length }}"),
    "a sum of texts": often("{{ (half[:90] + half[:90000] + half[:90000])|length }}"),
    "members": often("{{ wide.items()|length }}"),
    "keys": often("{{ wide.keys()|length }}"),
    "literals": often("{{ [" + "1," * 400 + "]|length }}"),
    "a huge number": "{{ huge }}",
    "a sum with a huge number": "{{ huge + 1 }}",
    "a huge number in a list": "{{ [huge]|tojson }}",
    "a huge number, rounded": "{{ huge|round }}",
    "a huge whole number": "{{ 1e300|int }}{{ huge|abs }}",
    "a number written out": "{{ " + "9" * 5_000 + " }}",
    "a number in hexadecimal": "{{ 0x" + "f" * 50_000 + " }}",
    "a power": "{{ 2 ** 64 }}",
    "a loop in loops in loops": "{% for a in b %}" * 60 + "{% endfor %}" * 60,
    "many words": "{{ a }}" * 50_000,
    "many brackets": "{{ " + "[" * 100_000,
    "a chain": "{{ a" + "|upper" * 200 + " }}",
}


@pytest.fixture(scope="module")
def values() -> dict[str, Any]:
    """Return what the bombs are given."""
    return {
        "long": LONG,
        "like": LONG[:-1] + "x",
        "half": LONG[:500_000],
        "many": MANY,
        "words": "a " * 250_000,
        "pairs": [[number, "x"] for number in MANY],
        "others": [[number, "x"] for number in MANY],
        "wide": {str(number): number for number in range(100_000)},
        "zeros": 12_000_000,
        "huge": 10**5_000,
    }


@pytest.mark.requirement("A6")
@pytest.mark.parametrize("name", BOMBS)
def test_bombs_are_refused_in_bounded_time(name: str, values: dict[str, Any]) -> None:
    """What isn't refused would take minutes to days, and run into the limit of the tests."""
    began = time.thread_time()
    with pytest.raises((TemplateInvalidError, TemplateRenderError)):
        render(BOMBS[name], **values)
    assert time.thread_time() - began < 10, "it was refused only after it had cost much"


@pytest.mark.parametrize(
    "source",
    [
        "{{ range }}",
        "{% for n in tags %}{{ loop }}{% endfor %}",
        "{{ 'x'.format }}",
        "{{ lead.items }}",
        "{{ [odd] }}",
        "{{ odd }}",
        "{{ {'a': odd}|tojson }}",
        "{{ 1e308 + 1e308 }}",
        "{{ 'inf'|float }}",
    ],
)
def test_what_is_no_json_is_not_written(source: str) -> None:
    with pytest.raises(TemplateRenderError):
        render(source, lead={"a": 1}, tags=["b"], odd=object())


@pytest.mark.parametrize(
    ("source", "rendered"),
    [
        ("{{ tags|reverse }}", "['a', 'b']"),
        ("{{ [3, 1, 3]|unique }}", "[3, 1]"),
        ("{{ lead|items|sort }}", "[['company', 'Acme'], ['size', 3]]"),
        ("{{ range(3) }}", "[0, 1, 2]"),
        ("{{ lead }}", "{'company': 'Acme', 'size': 3}"),
        ("{{ none }} {{ true }} {{ 1.50 }}", "None True 1.5"),
        ("{{ 2.567|round(2) }} {{ 2.1|round(0, 'ceil') }} {{ 5|round }}", "2.57 3.0 5"),
        ("{{ 'abc def ghi'|truncate(8, leeway=0) }}", "abc..."),
        ("{{ ' a '|trim }} {{ 'xax'|trim('x') }}", "a a"),
        ("{{ 'a-b c'|title }} {{ 'one two'|wordcount }}", "A-B C 2"),
        ("{{ ['b', 'A']|sort }} {{ ['b', 'A']|max }}", "['A', 'b'] b"),
        ("{{ leads|sort(attribute='size', reverse=true)|first|tojson }}", '{"size":2}'),
        ("{{ leads|min(attribute='size') }}", "{'size': 1}"),
        ("{{ '12'|int + 1 }} {{ 'x'|int(7) }} {{ 'ff'|int(base=16) }}", "13 7 255"),
        ("{{ '1.5'|float }} {{ 'x'|float }}", "1.5 0.0"),
        ("{{ 'x' if false }}{{ ('x' if false)|default('y') }}", "y"),
        ("{{ 1 < 2 < 3 }} {{ 'a' in 'abc' }} {{ 1 not in tags }}", "True True True"),
        ("{{ lead.deep.er|default('d') if lead.deep is defined else 'no' }}", "no"),
        ("{% for a, b in lead.items() if b is string %}{{ a }}{% else %}-{% endfor %}", "company"),
        ("{% for a in [] %}{% else %}none{% endfor %}", "none"),
        ("{% for a in tags %}{{ loop.first }}{{ loop.nextitem|d('-') }} {% endfor %}",
         "Truea False- "),
        ("{% for a in tags %}{% for a in 'xy' %}{{ loop.depth }}{% endfor %}{{ a }}{% endfor %}",
         "22b22a"),
        ("{{ tags[-1] }} {{ tags[5]|d('none') }} {{ tags[:1] }}", "a none ['b']"),
        ("{{ 7 is divisibleby 7 }} {{ 4 is even }} {{ lead is mapping }}", "True True True"),
        ("{{ -lead.size }} {{ 7 / 2 }} {{ true + 1 }}", "-3 3.5 2"),
    ],
)  # fmt: skip
def test_filters_and_operators_do_what_jinja_s_do(source: str, rendered: str) -> None:
    values = {"lead": {"company": "Acme", "size": 3}, "tags": ["b", "a"]}
    assert render(source, leads=[{"size": 1}, {"size": 2}], **values) == rendered


@pytest.mark.parametrize(
    ("source", "line", "says"),
    [
        ("a\n{{ 1|round(16) }}", 2, "precision of round"),
        ("{{ 1|round(precision=-16) }}", 1, "precision of round"),
        ("{{ 'a'|trim('" + "x" * 101 + "') }}", 1, "at most 100"),
        ("{{ a|join(1, 2, 3) }}", 1, "filter 'join' can't be used so"),
        ("{{ a|upper(b=1) }}", 1, "filter 'upper' can't be used so"),
        ("{{ a is divisibleby }}", 1, "test 'divisibleby' can't be used so"),
        ("{{ a|join(*b) }}", 1, "arguments can't be given with"),
        ("{{ a.items(1) }}", 1, "takes no arguments"),
        ("{{ range() }}", 1, "one to three numbers"),
        ("{{ '\\ud800' }}", 1, "not a character"),
        ("{{ 18446744073709551616 }}", 1, "beyond 64 bits"),
        ("{{ 1e999 }}", 1, "too large"),
        ("{% for loop in a %}{% endfor %}", 1, "'loop' is the loop itself"),
        ("{% for a.b in c %}{% endfor %}", 1, "line 1"),
    ],
)
def test_what_no_values_can_make_right_is_refused_when_the_template_is_made(
    source: str, line: int, says: str
) -> None:
    with pytest.raises(TemplateInvalidError, match=says) as caught:
        Prompt(source)
    assert caught.value.details["line"] == line


def test_renderings_that_belong_together_share_a_budget() -> None:
    heavy = Prompt("{% for i in range(9000) %}{% for j in [] %}{% endfor %}{% endfor %}")
    with WorkLimit(renderings=100) as budget:
        for _ in range(25):
            heavy.render({}, budget)
        with pytest.raises(TemplateRenderError, match="too long"):
            all(heavy.render({}, budget) == "" for _ in range(25))
    light = Prompt("Dear {{ name }}, {% for each in rows %}{{ each }} {% endfor %}")
    with WorkLimit(renderings=10_000) as budget:
        for _ in range(10_000):
            light.render({"name": "Ada", "rows": [1, 2, 3]}, budget)


def test_only_few_long_renderings_run_at_once() -> None:
    """Threads that compute keep the others, the event loop's among them, from the interpreter."""
    holding = Prompt("{% for i in range(9000) %}{{ i }}{{ i }}{{ i }}{% endfor %}")
    with WorkLimit() as one, WorkLimit() as two, WorkLimit(wait_seconds=0.01) as three:
        holding.render({}, one)
        holding.render({}, two)
        with pytest.raises(UnavailableError):
            holding.render({}, three)
    with WorkLimit(wait_seconds=0.01) as later:
        holding.render({}, later)


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=5),
                    lambda inner: st.lists(inner, max_size=4)
                    | st.dictionaries(st.text(max_size=3), inner, max_size=4)))  # fmt: skip
def test_equality_is_python_s(value: Any) -> None:
    other = json.loads(json.dumps(value))
    assert render("{{ a == b }} {{ a in [b] }}", a=value, b=other) == "True True"
    assert render("{{ a == b }}", a=[value], b=[other, None]) == "False"


def test_deep_nesting_is_refused() -> None:
    for source in ("{{ " + "(" * 5_000 + "1" + ")" * 5_000 + " }}",
                   "{% if a %}" * 5_000 + "{% endif %}" * 5_000,
                   "{{ a" + "|upper" * 20_000 + " }}",
                   "{{ " + "-" * 20_000 + "1 }}"):  # fmt: skip
        with pytest.raises((TemplateInvalidError, TemplateRenderError)):
            Prompt(source).render({"a": "x"})


def test_the_limits_themselves_are_within_the_limits() -> None:
    assert render(f"{{% for i in range({MAX_LOOP_ROUNDS}) %}}x{{% endfor %}}") == (
        "x" * MAX_LOOP_ROUNDS
    )
    text = "x" * MAX_RENDERED_CHARACTERS
    assert render("{{ text }}", text=text) == text
    with pytest.raises(TemplateRenderError, match="characters"):
        render("{{ text }}y", text=text)


def test_each_rendering_has_a_budget_of_its_own() -> None:
    prompt = Prompt("{% for i in range(6000) %}x{% endfor %}")
    assert [len(prompt.render({})) for _ in range(3)] == [6000] * 3


@pytest.mark.parametrize(
    ("source", "line"),
    [("{{ name", 1), ("\n\n{% if %}", 3), ("{{ name | nofilter }}", 1), ("a\n{% set x = 1 %}", 2)],
)
def test_a_wrong_template_is_told_with_its_line(source: str, line: int) -> None:
    with pytest.raises(TemplateInvalidError, match=rf"line {line}\b") as caught:
        Prompt(source)
    assert caught.value.details["line"] == line
    assert caught.value.field == "prompt"


def test_an_unknown_filter_is_told_with_those_that_there_are() -> None:
    with pytest.raises(
        TemplateInvalidError, match=r"there is no filter 'uper'; there are: .*upper"
    ):
        Prompt("{{ name | uper }}")


@pytest.mark.requirement("A6")
@pytest.mark.parametrize(
    "source",
    [
        "{{ missing }}",
        "{{ lead.missing }}",
        "{{ missing | upper }}",
        "{% for a in missing %}{% endfor %}",
        "{{ missing + 1 }}",
    ],
)
def test_a_missing_variable_is_an_error_and_not_an_empty_text(source: str) -> None:
    with pytest.raises(TemplateRenderError, match=r"missing|undefined"):
        render(source, lead={})


@pytest.mark.parametrize(
    "source",
    ["{{ 1 / 0 }}", "{{ 'a' + 1 }}", "{{ 'a' > 1 }}", "{{ 5 | length }}", "{{ 5 | join }}"],
)
def test_what_values_can_t_do_is_an_error_of_the_template(source: str) -> None:
    with pytest.raises(TemplateRenderError):
        render(source)


@pytest.mark.requirement("A6")
def test_a_template_reads_only_what_its_schema_has() -> None:
    schema = {"type": "object", "properties": {"name": {}, "tags": {}}}
    check_template("{{ name }} {% for tag in tags %}{{ tag }}{{ loop.index }}{% endfor %}", schema)
    with pytest.raises(TemplateInvalidError, match="reads nmae, which"):
        check_template("{{ nmae }}", schema)
    check_template("{{ anything }}", {})


def test_a_template_is_compiled_once() -> None:
    assert compiled("{{ a }}") is compiled("{{ a }}")


@given(st.text(max_size=200))
def test_any_text_is_either_a_template_or_refused(source: str) -> None:
    try:
        Prompt(source).render({})
    except (TemplateInvalidError, TemplateRenderError):
        return


PIECES = (
    "{{ }} {% %} {# #} for in if else endif endfor a b range(3) | upper sort ( ) [ ] . __class__ "
    "' \" + - loop 1 is defined , : items() not { }"
).split()


@given(st.lists(st.sampled_from(PIECES), max_size=30))
def test_any_piece_of_jinja_is_either_a_template_or_refused(pieces: list[str]) -> None:
    try:
        Prompt(" ".join(pieces)).render({"a": [1, 2], "b": {"c": "d"}})
    except (TemplateInvalidError, TemplateRenderError):
        return


@given(st.text())
def test_values_are_rendered_as_they_are(value: str) -> None:
    """What looks like a template inside a value is no template."""
    assert render("{{ value }}", value=value) == value
    assert render("{{ value }}", value="{{ 7 * 7 }}") == "{{ 7 * 7 }}"
