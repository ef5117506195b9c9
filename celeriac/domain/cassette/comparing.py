"""When two requests are the same, when they are alike, and where they differ."""

import hashlib
import re
from collections.abc import Callable, Iterator

import orjson

from celeriac.domain.cassette.format import Request
from celeriac.kit.jsontypes import JsonValue, dumps

VOLATILE = frozenset({"metadata", "prompt_cache_key", "safety_identifier", "user"})
"""Fields of a request's body that say who asks; they play no part in matching."""

ANSWER_LIMITS = frozenset({"max_tokens", "max_completion_tokens", "max_output_tokens"})
"""Fields that bound an answer: a budget may have lowered them, and a replay has none."""

_CHANGING = re.compile(
    r"""
      [0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}                                  # ids
    | \d{4}-\d\d-\d\d(?:[T\ ]\d\d:\d\d(?::\d\d(?:\.\d+)?)?(?:Z|[+-]\d\d:?\d\d)?)?  # dates, times
    """,
    re.IGNORECASE | re.VERBOSE,
)
_SHOWN = 60
_MISSING = object()


def as_it_is(text: str) -> str:
    """Return `text`."""
    return text


def masked(text: str) -> str:
    """Return `text` without what changes from run to run: ids, dates and times."""
    return _CHANGING.sub("*", text)


def fingerprint(provider: str, request: Request, read: Callable[[str], str]) -> bytes:
    """Return what is the same for requests that are, their texts read by `read`."""
    content = [provider, request.method, read(request.path), relevant(request, read)]
    return hashlib.sha256(orjson.dumps(content, option=orjson.OPT_SORT_KEYS)).digest()


def relevant(request: Request, read: Callable[[str], str]) -> JsonValue:
    """Return the body of a request as far as it matters."""
    body = request.body
    if isinstance(body, dict):
        body = {name: value for name, value in body.items() if name not in VOLATILE | ANSWER_LIMITS}
    return _read(body if body is not None else request.text or request.base64, read)


def differences(then: JsonValue, now: JsonValue, path: str = "") -> Iterator[str]:
    """Yield, as words for people, each place where `now` differs from `then`."""
    if isinstance(then, dict) and isinstance(now, dict):
        for name in dict.fromkeys([*then, *now]):
            inner = f"{path}.{name}" if path else name
            yield from differences(then.get(name, _MISSING), now.get(name, _MISSING), inner)
    elif isinstance(then, list) and isinstance(now, list):
        for index in range(max(len(then), len(now))):
            yield from differences(_at(then, index), _at(now, index), f"{path}[{index}]")
    elif then != now:
        yield f"{path or 'body'} (then {_shown(then, now)}, now {_shown(now, then)})"


def _read(value: JsonValue, read: Callable[[str], str]) -> JsonValue:
    if isinstance(value, str):
        return read(value)
    if isinstance(value, list):
        return [_read(item, read) for item in value]
    if isinstance(value, dict):
        return {name: _read(item, read) for name, item in value.items()}
    return value


def _at(items: list[JsonValue], index: int) -> JsonValue:
    return items[index] if index < len(items) else _MISSING


def _shown(value: object, other: object) -> str:
    """Return a value in short, from a little before the place where it parts from `other`."""
    if value is _MISSING:
        return "nothing"
    if not isinstance(value, str):
        text = dumps(value)
        return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"
    begin = 0
    if isinstance(other, str):
        pairs = enumerate(zip(value, other, strict=False))
        parting = next((i for i, (a, b) in pairs if a != b), min(len(value), len(other)))
        begin = max(0, parting - _SHOWN // 3)
    piece = value[begin : begin + _SHOWN]
    before, after = "…" if begin else "", "…" if begin + _SHOWN < len(value) else ""
    return dumps(before + piece + after)
