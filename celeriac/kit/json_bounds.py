"""Bounds of JSON texts, checked on the bytes before anything is built from them.

Everything here works in pieces of 64 kB: no single step keeps the other threads of the process
waiting, however large the text is.
"""

import re
from collections.abc import Iterator

_PIECE = 64 * 1024
_DIGITS = 19
_LONG = re.compile(rb"[0-9]{19}")
_LONG_INTEGER = re.compile(rb"(?<![0-9.eE+-])-?[0-9]{19,}(?![0-9.eE])")
_AFTER_A_NUMBER = re.compile(rb"[,\]}\s]")
_LONGEST_INTEGER = 400
"""Integers of more digits are no valid JSON: no float comes near them."""


def has_more_values_than(text: bytes, limit: int) -> bool:
    """Whether a JSON text has more than `limit` values and names.

    Commas, colons and opening brackets outside of strings are counted: one for each value and each
    name, two for an empty list or object. What is no JSON is counted in the same way.
    """
    if _marks(text) <= limit:
        return False  # not even with those in strings
    total = 0
    for piece in _outside_strings(text):
        total += _marks(piece)
        if total > limit:
            return True
    return False


def long_integers(text: bytes) -> Iterator[int]:
    """Yield the integers of 19 digits and more in a text that is valid JSON."""
    if not _has_digits(text):
        return
    begun = b""
    for piece in _outside_strings(text):
        ends = [found.end() for found in _AFTER_A_NUMBER.finditer(piece, len(piece) - 1000)]
        ends = ends or [found.end() for found in _AFTER_A_NUMBER.finditer(piece)]
        end = ends[-1] if ends else 0
        for found in _LONG_INTEGER.finditer(begun + piece[:end]):
            yield int(found[0])
        # the end of a piece may be amid a number; one that is too long for an integer is none
        begun = piece[end:] if end else begun + piece
        if len(begun) > _LONGEST_INTEGER:
            begun = b"0."
    for found in _LONG_INTEGER.finditer(begun):
        yield int(found[0])


def _has_digits(text: bytes) -> bool:
    """Whether a text has 19 digits in a row, be it in a string."""
    for start in range(0, len(text), _PIECE):
        end = start + _PIECE + _DIGITS - 1
        if _LONG.search(text, start, min(end, len(text))):
            return True
    return False


def _marks(text: bytes) -> int:
    return text.count(b",") + text.count(b":") + text.count(b"[") + text.count(b"{")


def _outside_strings(text: bytes) -> Iterator[bytes]:
    inside = False
    start = 0
    while start < len(text):
        piece = text[start : start + _PIECE]
        # an escape is not cut in two: an odd number of backslashes at the end begins one
        slashes = len(piece) - len(piece.rstrip(b"\\"))
        if slashes % 2 and start + len(piece) < len(text):
            piece = piece[:-1]
        start += len(piece)
        parts = piece.replace(b"\\\\", b"").replace(b'\\"', b"").split(b'"')
        yield b"".join(parts[inside::2])
        inside ^= len(parts) % 2 == 0
