"""Strict reading of JSON bodies."""

from typing import Any

import pytest

from celeriac.api.core.requests import MAX_VALUES, parse
from celeriac.domain.errors import InvalidInputError, MalformedJsonError, TooLargeError
from celeriac.kit.json_types import MAX_DEPTH


def _nested(levels: int) -> bytes:
    return b"[" * levels + b"]" * levels


@pytest.mark.parametrize(
    ("body", "value"),
    [
        (b'{"a": [1, 2.5, null, true, "\\u00e4"]}', {"a": [1, 2.5, None, True, "ä"]}),
        (b"9223372036854775807", 2**63 - 1),
        (b"-9223372036854775808", -(2**63)),
        (b'"12345678901234567890123"', "12345678901234567890123"),
        (b"1234567890123456789012.5", 1234567890123456789012.5),
        (b'"\\\\u0000"', "\\u0000"),
    ],
)
def test_what_fits_is_read(body: bytes, value: Any) -> None:
    assert parse(body) == value


def test_nesting_up_to_the_limit_is_read() -> None:
    assert parse(_nested(MAX_DEPTH)) is not None
    wide = b"[" + b",".join([b"[]"] * 1000) + b"]"
    assert len(parse(wide)) == 1000, "many on one level are not deep"


@pytest.mark.parametrize(
    "body",
    [
        b"9223372036854775808", b"-9223372036854775809", b"1" + b"0" * 30, b'"\\u0000"',
        b'{"a\\u0000": 1}', b'["\\\\", "\\u0000"]', _nested(MAX_DEPTH + 1), _nested(1000),
    ],
)  # fmt: skip
def test_what_can_t_be_stored_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidInputError):
        parse(body)


@pytest.mark.parametrize("digits", [str(2**64), str(2**63 * 3), str(-(2**63) - 1), "1" + "0" * 300])
def test_integers_beyond_64_bits_are_refused_in_the_words_for_results(digits: str) -> None:
    with pytest.raises(InvalidInputError, match="an integer beyond 64 bits; send it as a text"):
        parse(f'{{"variables": {{"n": {digits}}}}}'.encode())


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"NaN",
        b"1" + b"0" * 5_000,
        b"1e999",
        b'"\\ud800"',
        b"\xff",
        b"{'a': 1}",
        _nested(4_000),
    ],
)
def test_what_is_no_json_is_refused(body: bytes) -> None:
    with pytest.raises(MalformedJsonError):
        parse(body)


def test_the_place_of_a_nul_is_named() -> None:
    with pytest.raises(InvalidInputError) as caught:
        parse(b'{"items": [{"a": "x"}, {"a": "y\\u0000"}]}')
    assert caught.value.field == "items.1.a"


@pytest.mark.parametrize("body", [b"[" + b"[]," * 5_001 + b"[]]", b"[" + b"1," * 10_001 + b"1]",
                                  _nested(100_000)])  # fmt: skip
def test_more_values_than_are_needed_are_refused_unread(body: bytes) -> None:
    with pytest.raises(TooLargeError) as caught:
        parse(body)
    assert caught.value.details["limit"] == MAX_VALUES
    assert parse(b'["' + b"," * 100_000 + b'"]') == ["," * 100_000], "texts may be long"
