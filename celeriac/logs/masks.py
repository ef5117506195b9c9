"""Masks the values of secrets that an attempt was given, in all that is stored of it.

The filter of the log (`celeriac.logs.redact`) knows secrets by their form. Values that an agent was
given are known exactly, as long as the attempt runs; they are masked in the lines of its execution.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from html import escape
from json import dumps as json_dumps
from typing import Any, Final
from unicodedata import normalize
from urllib.parse import quote, quote_plus
from weakref import WeakValueDictionary

from celeriac.logs.redact import MASK

SHORTEST: Final = 8
"""Characters of what is masked; shorter lines of a value may stand in any text."""

_SHORTEST_REST = 4
_LONG_TEXT = 200
_ELLIPSIS = "…"
_MOST_CUTS = 20

_ESCAPED = re.compile("%[0-9A-F]{2}")
_OF_GO = str.maketrans({each: f"\\u{ord(each):04x}" for each in "<>&"})
"""What Go's JSON escapes besides."""

_Span = tuple[int, int]
"""Where a part of a text begins and ends."""


class Masker:
    """Masks values in texts and JSON. Safe to share between threads.

    Also found are the lines of a value, its forms in JSON, HTML, URLs, shells and Python's repr,
    and the rest of one in a text that was cut: its beginning, its end, or its middle. Other
    encodings, such as base64, are not. Of values that overlap nothing is left.
    """

    def __init__(self, values: Iterable[str]) -> None:
        found: set[str] = set()
        for value in values:
            whole = value.strip()
            parts = {whole, *(line.strip() for line in whole.splitlines())}
            for part in parts:
                found |= _forms(part)
        kept = (each for each in found if len(each) >= SHORTEST)
        self._forms = sorted(kept, key=len, reverse=True)

    def text(self, text: str) -> str:
        """Return `text` with the values masked."""
        found = [span for form in self._forms for span in _occurrences(text, form)]
        if len(text) >= _LONG_TEXT or _ELLIPSIS in text:
            found += self._rests(text)
        return _replaced(text, found)

    def value(self, value: Any) -> Any:
        """Return a JSON value with the values masked in its texts, keys and numbers."""
        match value:
            case str():
                return self.text(value)
            case bool() | None:
                return value
            case int() | float():
                shown = str(value)
                return MASK if any(form in shown for form in self._forms) else value
            case Mapping():
                return {self.text(str(key)): self.value(each) for key, each in value.items()}
            case list() | tuple():
                return [self.value(each) for each in value]
        return value

    def _rests(self, text: str) -> Iterator[_Span]:
        """Yield what is left of values where a text was cut: beginnings, ends, and middles."""
        for begin, end in _pieces(text):
            for form in self._forms:
                yield from _rests_of(form, text, begin, end)


def _forms(value: str) -> set[str]:
    found = set[str]()
    for each in {value, normalize("NFC", value), normalize("NFD", value)}:
        json, plain_json = json_dumps(each)[1:-1], json_dumps(each, ensure_ascii=False)[1:-1]
        urls = {quote(each, safe=""), quote(each), quote_plus(each), quote_plus(each, safe="/")}
        found |= {
            each,
            json,
            plain_json,
            json_dumps(json)[1:-1],
            json.replace("/", "\\/"),
            json.translate(_OF_GO),
            plain_json.translate(_OF_GO),
            *urls,
            *(_ESCAPED.sub(lambda found: found[0].lower(), url) for url in urls),
            escape(each),
            repr(each)[1:-1],
            repr(each.encode())[2:-1],
            each.replace("'", "'\\''"),  # as a shell shows what it runs
        }
    return found


def _occurrences(text: str, form: str) -> Iterator[_Span]:
    """Yield the places of `form`; those that overlap are one."""
    found = text.find(form)
    while found >= 0:
        begin, end = found, found + len(form)
        while 0 <= (found := text.find(form, found + 1)) < end:
            end = found + len(form)
        yield begin, end


def _pieces(text: str) -> Iterator[_Span]:
    """Yield the parts between the places where something may be left out, line ends aside."""
    begin, left = 0, _MOST_CUTS
    while begin <= len(text):
        end = text.find(_ELLIPSIS, begin) if left else -1
        left -= 1
        after = len(text) + 1 if end < 0 else end + 1
        end = len(text) if end < 0 else end
        while begin < end and text[begin] == "\n":
            begin += 1
        while end > begin and text[end - 1] == "\n":
            end -= 1
        yield begin, end
        begin = after


def _rests_of(form: str, text: str, begin: int, end: int) -> Iterator[_Span]:
    """Yield the parts of a piece of a text that are all of it, or at its ends, and part of `form`.

    At an end it is the longest such part.
    """
    if SHORTEST <= end - begin < len(form) and text[begin:end] in form:
        yield begin, end
        return
    near = max(begin, end - len(form) + 1)
    found = text.find(form[:_SHORTEST_REST], near, end)
    while found >= 0:
        if form.startswith(text[found:end]):
            yield found, end
            break
        found = text.find(form[:_SHORTEST_REST], found + 1, end)
    last = form[-_SHORTEST_REST:]
    found = text.rfind(last, begin, min(end, begin + len(form) - 1))
    while found >= 0:
        after = found + len(last)
        if form.endswith(text[begin:after]):
            yield begin, after
            break
        found = text.rfind(last, begin, after - 1)


def _replaced(text: str, spans: list[_Span]) -> str:
    """Return `text` with a mask for what is in one of the spans; those that overlap are one."""
    parts, at = list[str](), 0
    for begin, end in sorted(spans):
        if begin >= at:
            parts += (text[at:begin], MASK)
        at = max(at, end)
    return "".join((*parts, text[at:]))


_of_executions: WeakValueDictionary[str, Masker] = WeakValueDictionary()


def register(execution_id: str, masker: Masker) -> None:
    """Mask the lines of an execution from now on, for as long as `masker` is in use elsewhere."""
    _of_executions[execution_id] = masker


def any_known() -> bool:
    """Whether an attempt of this process was given secrets."""
    return bool(_of_executions)


def masked(fields: dict[str, Any], execution_id: str | None) -> dict[str, Any]:
    """Return the fields of a line, masked; lines of no execution for all that run here.

    A line of one execution is not masked for others, which might belong to other workspaces:
    their readers would learn from it that a guess is right.
    """
    if execution_id is None:
        found = list(_of_executions.values())
    else:
        one = _of_executions.get(execution_id)
        found = [] if one is None else [one]
    for masker in found:
        fields = masker.value(fields)
    return fields
