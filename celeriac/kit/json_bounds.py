"""Bounds of JSON texts, checked on the bytes before anything is built from them.

Everything here works in pieces of 64 kB: no single step keeps the other threads of the process
waiting, however large the text is.
"""

import re
from collections.abc import Iterator

_PIECE = 64 * 1024
_LONG_INTEGER = re.compile(rb"[0-9]{19}")
_DIGITS = 19


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


def has_long_number(text: bytes) -> bool:
    """Whether a text has 19 digits in a row, as integers beyond 64 bits have; also in strings."""
    for start in range(0, len(text), _PIECE):
        end = start + _PIECE + _DIGITS - 1
        if _LONG_INTEGER.search(text, start, min(end, len(text))):
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
