"""Variables as they are typed."""

import io
import sys
from pathlib import Path

import pytest

from celeriac.cli.core.arguments import gather, parse_pair
from celeriac.cli.core.output import UsageProblemError


@pytest.mark.parametrize(
    ("pair", "name", "value"),
    [
        ("text=Hello", "text", "Hello"),
        ("text=", "text", ""),
        ("text=a=b", "text", "a=b"),
        ("count=3", "count", "3"),
        ("count:=3", "count", 3),
        ('lead:={"id": 7}', "lead", {"id": 7}),
        ("on:=true", "on", True),
    ],
)
def test_pairs(pair: str, name: str, value: object) -> None:
    assert parse_pair(pair) == (name, value)


@pytest.mark.parametrize("pair", ["text", "=x", ":=3"])
def test_what_is_no_pair_says_how_to_write_one(pair: str) -> None:
    with pytest.raises(UsageProblemError, match="is not a variable") as caught:
        parse_pair(pair)
    assert "NAME" not in (caught.value.cure or "")
    assert "--var name=text" in (caught.value.cure or "")


def test_wrong_json_names_the_variable() -> None:
    with pytest.raises(UsageProblemError, match="--var count: this is not JSON"):
        parse_pair("count:=three")


def test_files_inputs_and_pairs_are_merged_the_later_winning(tmp_path: Path) -> None:
    everything = tmp_path / "vars.json"
    everything.write_text('{"a": 1, "b": 1, "c": 1}')
    text = tmp_path / "text.txt"
    text.write_text("from a file\n")
    found = gather(["c=pair"], [str(everything)], [f"b={text}"])
    assert found == {"a": 1, "b": "from a file\n", "c": "pair"}


def test_standard_input_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("piped"))
    assert gather([], [], ["text=-"]) == {"text": "piped"}
    monkeypatch.setattr(sys, "stdin", io.StringIO('{"n": 1}'))
    assert gather([], [], ["-"]) == {"n": 1}


def test_standard_input_can_be_read_only_once() -> None:
    with pytest.raises(UsageProblemError, match="once"):
        gather([], ["-"], ["text=-"])


def test_a_missing_file_is_named() -> None:
    with pytest.raises(UsageProblemError, match=r"/no/such can't be read: No such file"):
        gather([], ["/no/such"], [])


def test_a_file_that_is_no_text_is_named(tmp_path: Path) -> None:
    path = tmp_path / "bytes"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageProblemError, match="not UTF-8 text"):
        gather([], [], [f"text={path}"])


@pytest.mark.parametrize("text", ["[1]", '"text"', "3"])
def test_variables_must_be_an_object(tmp_path: Path, text: str) -> None:
    path = tmp_path / "vars.json"
    path.write_text(text)
    with pytest.raises(UsageProblemError, match="must be a JSON object"):
        gather([], [str(path)], [])


def test_a_text_in_the_place_of_a_file_names_the_option_for_texts() -> None:
    with pytest.raises(UsageProblemError, match=r"^Acme can't be read") as caught:
        gather([], [], ["company=Acme"])
    assert caught.value.cure is not None
    assert "--var company=TEXT" in caught.value.cure
