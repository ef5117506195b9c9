"""Texts are cut to a length, and say that they were; texts of strangers disguise nothing."""

import pytest

from celeriac.kit.text import (
    clip,
    clip_counted,
    clip_middle,
    clip_values,
    clipped_field,
    printable,
)


def test_a_text_that_fits_stays_as_it_is() -> None:
    assert clip("abcde", 5) == "abcde"
    assert clip_middle("abcde", 5) == "abcde"
    assert clip_counted("abcde", 5) == "abcde"
    assert clipped_field("content", "abcde", 5) == {"content": "abcde"}


def test_a_longer_text_is_cut_and_says_so() -> None:
    assert clip("abcdef", 5) == "abcd…"
    assert clip_counted("abcdef", 5) == "abcde… (1 character more)"
    assert clipped_field("content", "abcdef", 4) == {"content": "abcd", "clipped": 2}


def test_the_middle_is_left_out_and_counted() -> None:
    cut = clip_middle("a" * 5_000 + "b" * 5_000, 101)

    assert cut == "a" * 50 + "\n… 9,900 characters left out …\n" + "b" * 50


def test_each_text_of_a_value_is_cut() -> None:
    value = {"long": "x" * 12, "list": ["y" * 11, 5, None], "short": "z"}

    assert clip_values(value, 10) == {
        "long": "x" * 10 + "… (2 characters more)",
        "list": ["y" * 10 + "… (1 character more)", 5, None],
        "short": "z",
    }


@pytest.mark.parametrize("bad", ["\x1b", "\x07", "\x9b", "\r", "\u202e", "\u2066"])
def test_characters_that_control_a_display_are_replaced(bad: str) -> None:
    assert printable(f"a{bad}b\n\tc") == "a\N{REPLACEMENT CHARACTER}b\n\tc"


def test_text_of_any_language_stays() -> None:
    text = "naïve 日本語 שלום 👩‍🔬"
    assert printable(text) == text
