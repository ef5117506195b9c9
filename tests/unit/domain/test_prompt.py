"""Prompt templates: what they can do, and what they can't."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celeriac.domain.errors import TemplateInvalidError, TemplateRenderError
from celeriac.domain.prompt import (
    MAX_LOOP_ROUNDS,
    MAX_RENDERED_CHARACTERS,
    Prompt,
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
}


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_are_refused_in_bounded_time(name: str) -> None:
    """What isn't refused would take minutes to days, and run into the limit of the tests."""
    with pytest.raises((TemplateInvalidError, TemplateRenderError)):
        render(BOMBS[name], long=LONG, half=LONG[:500_000], many=MANY)


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
