"""Labels: what may be one."""

import pytest

from celeriac.domain.errors import InvalidInputError
from celeriac.domain.labels import Label, checked_labels, parse_label


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("customer:acme", Label("customer", "acme")),
        ("url:https://x.example/a:1", Label("url", "https://x.example/a:1")),
        ("k:ünïcode 日本", Label("k", "ünïcode 日本")),
        ("app.kubernetes-io_name:x", Label("app.kubernetes-io_name", "x")),
    ],
)
def test_a_label_is_read_and_written_alike(text: str, label: Label) -> None:
    assert parse_label(text) == label
    assert str(label) == text


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("customer", "KEY:VALUE"),
        ("customer:", "KEY:VALUE"),
        (":acme", "begins with a letter"),
        ("1st:acme", "begins with a letter"),
        ("a b:acme", "begins with a letter"),
        ("k" * 64 + ":acme", "at most 63"),
        ("k:" + "v" * 201, "at most 200"),
        ("k:a\nb", "one line"),
        ("k:a\0", "one line"),
        ("k:\ud800", "one line"),
    ],
)
def test_others_are_refused(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        parse_label(text)


def test_the_labels_of_an_execution_are_few_and_in_order() -> None:
    assert list(checked_labels({"b": "1", "a": "2"})) == ["a", "b"]
    with pytest.raises(InvalidInputError, match="17 entries; the most are 16"):
        checked_labels({f"k{number}": "v" for number in range(17)})
    with pytest.raises(InvalidInputError, match=r"labels\.no key: a label's key"):
        checked_labels({"no key": "v"})
