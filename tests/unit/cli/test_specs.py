"""Specifications put together from files and options."""

from pathlib import Path

import pytest

from celeriac.cli.core.arguments import assign, begin_spec, json_argument, put, text_argument
from celeriac.cli.core.output import UsageProblemError


def test_fields_are_set_by_their_path() -> None:
    spec = {"limits": {"soft_seconds": 5}, "prompt": "p"}
    assign(spec, ["limits.hard_seconds:=9", "priority=high", "retry.max_retries:=0"])
    assert spec == {
        "limits": {"soft_seconds": 5, "hard_seconds": 9},
        "prompt": "p",
        "priority": "high",
        "retry": {"max_retries": 0},
    }


def test_what_the_specification_was_begun_from_stays_as_it_is() -> None:
    current = {"limits": {"soft_seconds": 5}}
    spec = begin_spec(None, current)
    assign(spec, ["limits.soft_seconds:=6"])
    assert current == {"limits": {"soft_seconds": 5}}


def test_a_field_below_a_plain_value_is_refused() -> None:
    with pytest.raises(UsageProblemError, match="prompt holds no fields"):
        assign({"prompt": "p"}, ["prompt.x=1"])


def test_a_file_replaces_the_current_specification(tmp_path: Path) -> None:
    path = tmp_path / "spec.json"
    path.write_text('{"runner": "llm"}')
    assert begin_spec(str(path), {"runner": "python"}) == {"runner": "llm"}


def test_only_what_is_given_is_put() -> None:
    spec = {"prompt": "old"}
    put(spec, prompt=None, queue="mine")
    assert spec == {"prompt": "old", "queue": "mine"}


def test_json_is_taken_inline_or_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "schema.json"
    path.write_text('{"type": "object"}')
    assert json_argument(str(path), "--output-schema") == {"type": "object"}
    assert json_argument(' {"type": "array"}', "--output-schema") == {"type": "array"}
    assert json_argument(None, "--output-schema") is None
    with pytest.raises(UsageProblemError, match="--output-schema: this is not JSON"):
        json_argument("{", "--output-schema")


def test_a_text_and_its_file_exclude_each_other() -> None:
    with pytest.raises(UsageProblemError, match="Give --prompt or --prompt-file, not both"):
        text_argument("p", "f", "--prompt")
