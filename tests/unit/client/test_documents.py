"""Documents as files: what YAML and JSON mean here, what is refused, and where it stands."""

import json
from pathlib import Path
from typing import Any

import pytest

from celeriac.client import ClientError, Document, DocumentError
from celeriac.wire import ProblemField


def one(value: str) -> Any:
    """Return what a scalar means."""
    return Document.parse(f"agents:\n- a: {value}\n", "f.yaml").content["agents"][0]["a"]


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("no", "no"), ("yes", "yes"), ("on", "on"), ("Off", "Off"), ("y", "y"),
        ("true", True), ("False", False), ("~", None), ("", None), ("null", None),
        ("2026-01-01", "2026-01-01"), ("12:30:45", "12:30:45"), ("1_000", "1_000"),
        ("010", 10), ("0o10", 8), ("0x1F", 31), ("-3", -3), ("1.10", 1.1), (".5", 0.5),
        ("1e3", 1000.0), ("'1'", "1"), ('"true"', "true"), ("!!str 5", "5"), ("=", "="),
        ("0b11", "0b11"), ("[a, 1, {b: c}]", ["a", 1, {"b": "c"}]),
        ('"\\u00e9\\x41\\n"', "éA\n"), ("|\n    two\n    lines", "two\nlines\n"),
    ],
)  # fmt: skip
def test_scalars_mean_what_yaml_1_2_says(written: str, meant: Any) -> None:
    found = one(written)
    assert (found, type(found)) == (meant, type(meant))


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "f.yaml:1:1: it is empty"),
        ("# nothing\n", "f.yaml:1:1: it is empty"),
        ("- a", "f.yaml:1:1: there must be a mapping"),
        ("agents", "f.yaml:1:1: there must be a mapping"),
        ("agents: &all []\ntasks: *all", "f.yaml:1:9: anchors and aliases"),
        ("agents: *all", "f.yaml:1:9: anchors and aliases"),
        ("agents: !!python/name:os.system x", "f.yaml:1:9: the tag"),
        ("agents: []\nagents: []", "f.yaml:2:1: agents is here a second time"),
        ("agents:\n- {a: 1, a: 2}", "f.yaml:2:10: a is here a second time"),
        ("agents: []\n---\ntasks: []", "f.yaml:2:1: a second document"),
        ("agents: [", "f.yaml:2:1: this is not valid YAML"),
        ("agents:\n\t- a", "f.yaml:2:1: this is not valid YAML"),
        ("? [a]\n: b", "f.yaml:1:3: the name of a field"),
        ("agents:\n- a: .inf", "f.yaml:2:6: .inf can't be stored"),
        ("agents:\n- a: 1e999", "f.yaml:2:6: this number is too large"),
        (f"agents:\n- a: {'9' * 5000}", "f.yaml:2:6: this number is too large"),
        ("[" * 500_000, "f.yaml:1:51: it is nested deeper"),
        ("agents: '\x07'", "f.yaml:1:1: this is not valid YAML"),
        ("a: b\n" * 200_001, "f.yaml: it has more than 1,000,000 characters"),
    ],
    ids=range(19),
)
def test_what_is_refused_is_named_with_its_place(text: str, fault: str) -> None:
    with pytest.raises(DocumentError) as caught:
        Document.parse(text, "f.yaml")
    assert caught.value.code == "document_invalid"
    assert caught.value.message.startswith(fault), caught.value.message[:200]


def test_several_faults_are_told_at_once() -> None:
    with pytest.raises(DocumentError) as caught:
        Document.parse("agents:\n- {a: .nan, a: 1}\nagents: []", "f.yaml")
    assert [line.split(": ")[0] for line in caught.value.message.splitlines()] == [
        "f.yaml:2:7", "f.yaml:2:13", "f.yaml:3:1",
    ]  # fmt: skip


def test_aliases_that_would_grow_without_end_are_never_expanded() -> None:
    bomb = "a: &a [x, x]\n" + "\n".join(
        f"{chr(98 + n)}: &{chr(98 + n)} [{', '.join([f'*{chr(97 + n)}'] * 9)}]" for n in range(20)
    )
    with pytest.raises(DocumentError, match="anchors and aliases"):
        Document.parse(bomb, "f.yaml")


@pytest.mark.parametrize("indent", [None, 2, "\t"])
@pytest.mark.parametrize("ascii_only", [True, False])
def test_json_means_what_json_says(indent: Any, ascii_only: bool) -> None:
    value = {
        "agents": [
            {"a": '😀\\ud83d\\u0041 "q" \t\n/', "b": [1, 2.5, -3e-7, True, None, "no", ""]},
            {"c": {"d": {}}, "e": [], "": "x", "f: g": "- h # i"},
        ]
    }
    text = json.dumps(value, indent=indent, ensure_ascii=ascii_only)
    assert Document.parse(text, "f.json").content == value
    assert Document.parse(text.replace("/", "\\/"), "f.json").content == value


def test_a_section_with_nothing_in_it_is_no_section() -> None:
    assert Document.parse("agents:\ntasks: []\n", "f").content == {"tasks": []}


def refusal(**fields: str) -> ClientError:
    """Return what the server says of wrong fields; `__` stands for a point."""
    found = [
        ProblemField(field=name.replace("__", "."), message=text) for name, text in fields.items()
    ]
    return ClientError("it is wrong", code="invalid_input", status=422, fields=found)


def test_the_server_s_faults_are_shown_with_file_line_and_name(tmp_path: Path) -> None:
    (tmp_path / "one.yaml").write_text("agents:\n- name: ann\n  spec:\n    runner: llm\n")
    (tmp_path / "two.yaml").write_text(
        "agents:\n- name: bob\n  spec:\n    runner: llm\n    modle: a/b\n"
        "tasks:\n- name: 7\n  active: no\nbudgets:\n- {task: t, period: day}\n"
        "workflows:\n- workflow: w\n  steps:\n    a:\n      when: stps.b\n"
    )
    document = Document.read(tmp_path / "one.yaml", tmp_path / "two.yaml")
    assert [agent["name"] for agent in document.content["agents"]] == ["ann", "bob"]
    error = refusal(
        agents__0__spec__model="is required; add it",
        agents__1__spec__modle="is not a field here",
        tasks__0__name="input should be a valid string",
        tasks__0__active="input should be a valid boolean",
        tasks__0__agent="is required; add it",
        budgets__0="set max_cost, max_tokens or both",
        workflows__0__steps__a__when="there is no stps",
        workflows__0__steps__a__task="it is missing",
        other="is not a field here",
    )
    found = document.located(error)
    assert (found.code, found.status, found.fields) == ("invalid_input", 422, error.fields)
    number = "input should be a valid string; put it in quotes to make it a string"
    word = "input should be a valid boolean; no is a string in YAML 1.2: write true or false"
    assert found.message.splitlines()[1:] == [
        f"{tmp_path}/one.yaml:3:3: agent ann, spec.model: is required; add it",
        f"{tmp_path}/two.yaml:5:5: agent bob, spec.modle: is not a field here",
        f"{tmp_path}/two.yaml:7:3: task number 1, name: {number}",
        f"{tmp_path}/two.yaml:8:3: task number 1, active: {word}",
        f"{tmp_path}/two.yaml:7:3: task number 1, agent: is required; add it",
        f"{tmp_path}/two.yaml:10:3: budget t: set max_cost, max_tokens or both",
        f"{tmp_path}/two.yaml:15:7: workflow w, steps.a.when: there is no stps",
        f"{tmp_path}/two.yaml:14:5: workflow w, steps.a.task: it is missing",
        "other: is not a field here",
    ]


def test_an_error_about_no_field_stays_as_it_is() -> None:
    error = ClientError("away", code="unreachable")
    assert Document({}).located(error) is error


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "No such file"), (b"\xff\xfe", "it is not UTF-8 text")],
)
def test_files_that_cannot_be_read_are_named(
    tmp_path: Path, content: bytes | None, message: str
) -> None:
    path = tmp_path / "project.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DocumentError, match=message) as caught:
        Document.read(path)
    assert caught.value.message.startswith(f"{path}: ")
