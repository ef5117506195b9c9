"""Masks the values of secrets that an attempt was given, in all that is stored of it.

The filter of the log (`celeriac.logs.redact`) knows secrets by their form. Values that an agent was
given are known exactly, as long as the attempt runs; they are masked in the lines of its execution.
"""

from collections.abc import Iterable, Mapping
from html import escape
from json import dumps as json_dumps
from typing import Any, Final
from urllib.parse import quote, quote_plus
from weakref import WeakValueDictionary

from celeriac.logs.redact import MASK

SHORTEST: Final = 8
"""Characters of what is masked; shorter lines of a value may stand in any text."""

_SHORTEST_REST = 4
_LONG_TEXT = 200
_ELLIPSIS = "…"
_MOST_CUTS = 20


class Masker:
    """Masks values in texts and JSON. Safe to share between threads.

    Also found are the lines of a value, its forms in JSON, HTML, URLs and Python's repr, and the
    rest of one at the end or the beginning of a text that was cut. Other encodings, such as base64,
    are not.
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
        for form in self._forms:
            if form in text:
                text = text.replace(form, MASK)
        if len(text) >= _LONG_TEXT or _ELLIPSIS in text:
            text = self._without_rests(text)
        return text

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

    def _without_rests(self, text: str) -> str:
        """Mask beginnings of values before a cut, and ends of them after one."""
        for form in self._forms:
            for place in _cuts(text):
                text = _without_begin(text, place, form)
            for place in _cuts(text):
                text = _without_end(text, place, form)
        return text


def _forms(value: str) -> set[str]:
    return {
        value,
        json_dumps(value)[1:-1],
        json_dumps(value, ensure_ascii=False)[1:-1],
        json_dumps(json_dumps(value)[1:-1])[1:-1],
        json_dumps(value)[1:-1].replace("/", "\\/"),
        quote(value, safe=""),
        quote(value),
        quote_plus(value),
        quote_plus(value, safe="/"),
        escape(value),
        repr(value)[1:-1],
        repr(value.encode())[2:-1],
    }


def _cuts(text: str) -> list[int]:
    """Return the places where something may be left out, the last first."""
    places = [0, len(text)]
    place = text.find(_ELLIPSIS)
    while place >= 0 and len(places) < _MOST_CUTS:
        places += [place, place + 1]
        place = text.find(_ELLIPSIS, place + 1)
    return sorted(places, reverse=True)


def _without_begin(text: str, place: int, form: str) -> str:
    """Mask a beginning of `form` right before `place`, line ends aside."""
    head = text[:place].rstrip("\n")
    begin = max(0, len(head) - len(form) + 1)
    found = head.find(form[:_SHORTEST_REST], begin)
    while found >= 0:
        if form.startswith(head[found:]):
            return head[:found] + MASK + text[len(head) :]
        found = head.find(form[:_SHORTEST_REST], found + 1)
    return text


def _without_end(text: str, place: int, form: str) -> str:
    """Mask an end of `form` right after `place`, line ends aside."""
    rest = text[place:].lstrip("\n")
    last = form[-_SHORTEST_REST:]
    found = rest.rfind(last, 0, len(form) - 1)
    while found >= 0:
        end = found + len(last)
        if form.endswith(rest[:end]):
            return text[: len(text) - len(rest)] + MASK + rest[end:]
        found = rest.rfind(last, 0, end - 1)
    return text


_of_executions: WeakValueDictionary[str, Masker] = WeakValueDictionary()


def register(execution_id: str, masker: Masker) -> None:
    """Mask the lines of an execution from now on, for as long as `masker` is in use elsewhere."""
    _of_executions[execution_id] = masker


def any_known() -> bool:
    """Whether an attempt of this process was given secrets."""
    return bool(_of_executions)


def masked(fields: dict[str, Any], execution_id: str | None) -> dict[str, Any]:
    """Return the fields of a line, masked; lines of no execution for all that run here.

    A line of one execution is not masked for others, which might belong to other workspaces: it
    would tell their readers that a guess is right.
    """
    if execution_id is None:
        found = list(_of_executions.values())
    else:
        one = _of_executions.get(execution_id)
        found = [] if one is None else [one]
    for masker in found:
        fields = masker.value(fields)
    return fields
