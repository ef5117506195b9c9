"""Bounds of JSON texts, counted on their bytes."""

import json
from typing import Any

import pytest

from celeriac.kit.json_types import has_more_values_than, long_integers

_PIECE = 64 * 1024


def _values(value: Any) -> int:
    """Count values and names, the slow way."""
    if isinstance(value, dict):
        return 1 + sum(1 + _values(inner) for inner in value.values())
    if isinstance(value, list):
        return 1 + sum(map(_values, value))
    return 1


@pytest.mark.parametrize(
    "value",
    [
        [1] * 50,
        [[]] * 50,
        {str(number): None for number in range(50)},
        [{"a": [{}]}] * 20,
        ["a,b:[{"] * 50,
        ['"', "\\", '\\"', '",', "\\\\"] * 20,
    ],
)
def test_values_are_counted_and_not_what_strings_hold(value: Any) -> None:
    text, count = json.dumps(value).encode(), _values(value)
    assert not has_more_values_than(text, 2 * count), "empty lists count twice, nothing more"
    assert has_more_values_than(text, count // 2)


@pytest.mark.parametrize("shift", range(7))
@pytest.mark.parametrize("filling", ["x", "\\\\", '\\"', ",", "é"])
def test_pieces_are_joined_where_they_were_cut(filling: str, shift: int) -> None:
    within = "x" * shift + filling * (2 * _PIECE)
    text = f'["{within}", 1, 2, 3]'.encode()
    assert not has_more_values_than(text, 4)
    assert has_more_values_than(text, 3)


def test_a_text_that_is_no_json_is_counted_as_well() -> None:
    assert has_more_values_than(b"[" * 1000, 999)
    assert has_more_values_than(b'"' + b"\\" * 8 + b'",,,,', 3)
    assert not has_more_values_than(b"", 1)


@pytest.mark.parametrize("start", [0, 1, _PIECE - 19, _PIECE - 10, _PIECE - 1, _PIECE])
def test_a_long_number_is_found_wherever_it_stands(start: int) -> None:
    number = 1111111111111111111
    assert list(long_integers(b" " * start + b"[%d" % number + b"]" * 70_000)) == [number]
    assert list(long_integers(b" " * start + b"-%d" % number)) == [-number]


@pytest.mark.parametrize(
    "text",
    [
        b"111111111111111111", b"1111111111111111111.5", b"0.1111111111111111111",
        b"1e-1111111111111111111", b"1111111111111111111e2", b'"1111111111111111111"',
        b"0." + b"1" * 200_000, b"[0." + b"1" * 200_000 + b"]", b"1." + b"1" * (_PIECE + 30),
        b'["1111111111111111111", 1]', b'["\\\\", "1111111111111111111"]',
    ],
    ids=range(11),
)  # fmt: skip
def test_what_is_no_long_integer_is_none(text: bytes) -> None:
    assert list(long_integers(text)) == []


def test_all_long_integers_are_found() -> None:
    numbers = [10**18 + n * 10**14 for n in range(20_000)]
    assert list(long_integers(json.dumps(numbers).encode())) == numbers
    assert list(long_integers(json.dumps({"a": numbers}, indent=1).encode())) == numbers
