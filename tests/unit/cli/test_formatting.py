"""Values as people read them."""

from datetime import UTC, datetime
from decimal import Decimal

import pytest

from celeriac.cli.core import output


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (None, "-"),
        (0.0123, "0.01 s"),
        (12.34, "12.3 s"),
        (125, "2 min 5 s"),
        (3780, "1 h 3 min"),
        (187_200, "2 d 4 h"),
        (-2, "-2.0 s"),
    ],
)
def test_durations(seconds: float | None, words: str) -> None:
    assert output.duration(seconds) == words


@pytest.mark.parametrize(
    ("count", "words"),
    [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (20 * 1024**3, "20.0 GiB")],
)
def test_sizes(count: int, words: str) -> None:
    assert output.size(count) == words


@pytest.mark.parametrize(
    ("dollars", "words"),
    [("0E-9", "$0.00"), ("12.500000000", "$12.50"), ("0.0021", "$0.0021"), ("0.6", "$0.60")],
)
def test_money_keeps_the_digits_of_cheap_calls(dollars: str, words: str) -> None:
    assert output.money(Decimal(dollars)) == words


def test_texts_are_cut_to_one_line() -> None:
    assert output.short("one\ntwo  three", 50) == "one two three"
    assert output.short("abcdef", 4) == "abc…"


def test_tokens() -> None:
    assert output.tokens(0, 0) == "-"
    assert output.tokens(1200, 5) == "1,200 → 5"


def test_times_are_shown_in_the_readers_zone() -> None:
    at = datetime(2026, 11, 22, 12, 0, 0, 123456, tzinfo=UTC)
    assert output.moment(at) == f"{at.astimezone():%Y-%m-%d %H:%M:%S}"
    assert output.clock(at).endswith(":00.123")
    assert output.moment(None) == "-"


def test_strings_stay_plain_and_everything_else_is_json() -> None:
    assert output.plain("grüß") == "grüß"
    assert output.plain({"ö": [1]}) == '{\n  "ö": [\n    1\n  ]\n}'
