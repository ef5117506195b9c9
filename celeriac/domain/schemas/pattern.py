"""The size of a regular expression after its repetitions are expanded."""

import re

_MOST = 10**12
_IGNORES_SPACES = re.compile(r"\(\?[a-zA-Z]*x")
"""The flag x, which is not part of JSON Schema: with it, a repetition may apply elsewhere."""

_LONGEST_CHARACTER = 4
"""In bytes, the unit of matching."""


def compiled_size(pattern: str) -> int:
    """Return the cost of compiling, in units of one plain character: an upper bound.

    A Unicode class is compiled to some hundreds of byte ranges.
    """
    if _IGNORES_SPACES.search(pattern):
        return _MOST
    return _Reader(pattern, of_class=20, of_unicode=1_400).size()


def matching_size(pattern: str) -> int:
    """Return the cost of matching for each byte of a text, in the same units: an upper bound."""
    return _Reader(pattern, of_class=4, of_unicode=10).size()


class _Reader:
    """Reads the part of the syntax that determines what is repeated, and how often."""

    def __init__(self, pattern: str, *, of_class: int, of_unicode: int) -> None:
        self._pattern = pattern
        self._of_class = of_class
        self._of_unicode = of_unicode
        self._at = 0
        # case-insensitive parts count twice
        self._case = 2 if "i" in pattern and "(?" in pattern else 1

    def size(self) -> int:
        outer: list[int] = []  # no recursion: a pattern may be nested as deeply as it is long
        total, last = 1, 0
        while self._at < len(self._pattern):
            char = self._next()
            if char == "(":
                outer.append(total)
                total, last = 1, 0
                continue
            if char == ")" and outer:
                total, last = min(outer.pop() + total, _MOST), total
                continue
            if char == "{":
                times = self._times()
                if times is not None:
                    total, last = min(total + last * times, _MOST), min(last * times, _MOST)
                    continue
            elif char in "*+?":
                total, last = min(total + last, _MOST), min(2 * last, _MOST)
                continue
            last = self._case * self._atom(char)
            total = min(total + last, _MOST)
        return min(total + sum(outer), _MOST)

    def _next(self) -> str:
        char = self._pattern[self._at]
        self._at += 1
        return char

    def _times(self) -> int | None:
        """Read `2,5}` and return the larger number; None for a brace that is not a repetition."""
        end = self._pattern.find("}", self._at, self._at + 30)
        if end < 0:
            return None
        numbers = self._pattern[self._at : end].replace(" ", "").split(",")
        if not all(number.isdecimal() or not number for number in numbers):
            return None
        self._at = end + 1
        return max(int(number or 1) for number in numbers)

    def _atom(self, char: str) -> int:
        if char == "\\":
            return self._escape()
        if char == "[":
            return self._class()
        return self._of_class if char in ".^$" else len(char.encode("utf-8", "replace"))

    def _escape(self) -> int:
        if self._at >= len(self._pattern):
            return 1
        char = self._next()
        if char in "pP":
            if not self._skipped_braces():
                self._at += 1  # a name of one letter
            return self._of_unicode
        if char in "xuU":
            self._skipped_braces()
            return _LONGEST_CHARACTER
        return self._of_class if char.isalpha() else 1

    def _skipped_braces(self) -> bool:
        if not self._pattern.startswith("{", self._at):
            return False
        end = self._pattern.find("}", self._at)
        self._at = len(self._pattern) if end < 0 else end + 1
        return True

    def _class(self) -> int:
        """Read the rest of `[…]`, including nested classes, and return its size."""
        size, depth = self._of_class, 1
        first = True
        while self._at < len(self._pattern) and depth:
            char = self._next()
            if char == "\\":
                size += self._escape()
            elif char == "[":
                depth += 1
            elif char == "]" and not first:
                depth -= 1
            first = char == "[" or (first and char == "^")
            size += 1
        return size
