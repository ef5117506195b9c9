"""Finds the recorded answer of a request, or describes how the request differs."""

import hashlib
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, zip_longest

import orjson

from celeriac.domain.cassettes import Cassette, JsonEvent, Request, Response, StreamItem
from celeriac.domain.errors import CassetteMismatchError
from celeriac.kit.json_types import JsonValue, dumps
from celeriac.kit.text import clip
from celeriac.kit.words import counted

VOLATILE = frozenset({"metadata", "prompt_cache_key", "safety_identifier", "user"})
"""Fields of a request's body that identify the caller; ignored in matching."""

ANSWER_LIMITS = frozenset({"max_tokens", "max_completion_tokens", "max_output_tokens"})
"""Limits of an answer; ignored, because a budget may lower them and a replay has no budget."""

_CHANGING = re.compile(
    r"""
      [0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}                                  # ids
    | \d{4}-\d\d-\d\d(?:[T\ ]\d\d:\d\d(?::\d\d(?:\.\d+)?)?(?:Z|[+-]\d\d:?\d\d)?)?  # dates, times
    """,
    re.IGNORECASE | re.VERBOSE,
)
_SHOWN_DIFFERENCES = 60
_MISSING = object()


def masked(text: str) -> str:
    """Return `text` without ids, dates and times, which change from run to run."""
    return _CHANGING.sub("*", text)


def fingerprint(provider: str, request: Request, read: Callable[[str], str]) -> bytes:
    """Return a hash that equal requests share; texts are compared as `read` returns them."""
    content = [provider, request.method, read(request.path), relevant(request, read)]
    return hashlib.sha256(orjson.dumps(content, option=orjson.OPT_SORT_KEYS)).digest()


def relevant(request: Request, read: Callable[[str], str]) -> JsonValue:
    """Return the body of a request without the fields that are ignored."""
    body = request.body
    if isinstance(body, dict):
        body = {name: value for name, value in body.items() if name not in VOLATILE | ANSWER_LIMITS}
    return _read(body if body is not None else request.text or request.base64, read)


def differences(then: JsonValue, now: JsonValue, path: str = "") -> Iterator[str]:
    """Yield a text for each place where `now` differs from `then`."""
    if isinstance(then, dict) and isinstance(now, dict):
        for name in dict.fromkeys([*then, *now]):
            inner = f"{path}.{name}" if path else name
            yield from differences(then.get(name, _MISSING), now.get(name, _MISSING), inner)
    elif isinstance(then, list) and isinstance(now, list):
        for index, (old, new) in enumerate(zip_longest(then, now, fillvalue=_MISSING)):
            yield from differences(old, new, f"{path}[{index}]")
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


def _shown(value: object, other: object) -> str:
    """Return a value in short; a text from shortly before its first difference from `other`."""
    if value is _MISSING:
        return "nothing"
    if not isinstance(value, str):
        return clip(dumps(value), _SHOWN_DIFFERENCES)
    begin = 0
    if isinstance(other, str):
        pairs = enumerate(zip(value, other, strict=False))
        differs = next((i for i, (a, b) in pairs if a != b), min(len(value), len(other)))
        begin = max(0, differs - _SHOWN_DIFFERENCES // 3)
    piece = value[begin : begin + _SHOWN_DIFFERENCES]
    before, after = "…" if begin else "", "…" if begin + _SHOWN_DIFFERENCES < len(value) else ""
    return dumps(before + piece + after)


_COMPARED = 200
_SHOWN = 3
_COUNTED = 50


@dataclass(frozen=True, slots=True)
class ReplayResult:
    """A recorded answer."""

    response: Response
    again: bool
    """Whether the same attempt repeated the request in the recording, as after a failure."""


class Replayer:
    """Returns the recorded answers for the requests of one attempt. Not thread-safe.

    Each answer is used once. Equal requests get their answers in the order of the recording,
    beginning with those of the same attempt, so that a retry gets the answers of the recorded
    retry. A request without an exact match may differ in ids, dates and times. The order of
    different requests does not matter, so that an agent may make several concurrently.
    """

    def __init__(self, cassette: Cassette, *, attempt: int) -> None:
        self._cassette = cassette
        self._attempt = attempt
        self._unused = set(range(len(cassette.interactions)))
        self._exact: dict[bytes, list[int]] = defaultdict(list)
        self._alike: dict[bytes, list[int]] = defaultdict(list)
        for index, each in enumerate(cassette.interactions):
            self._exact[fingerprint(each.provider, each.request, str)].append(index)
            self._alike[fingerprint(each.provider, each.request, masked)].append(index)

    def answer(self, provider: str, request: Request) -> ReplayResult:
        """Return the answer to a request to `provider`.

        Raises CassetteMismatchError that describes the differences from the most similar request.
        """
        exact = self._exact.get(fingerprint(provider, request, str), [])
        alike = self._alike.get(fingerprint(provider, request, masked), [])
        for found in (exact, alike):
            unused = [index for index in found if index in self._unused]
            if unused:
                return self._take(unused)
        raise CassetteMismatchError(self._mismatch(provider, request, alike))

    def _take(self, unused: list[int]) -> ReplayResult:
        recorded = self._cassette.interactions
        chosen = min(unused, key=lambda index: (recorded[index].attempt != self._attempt, index))
        self._unused.discard(chosen)
        attempt = recorded[chosen].attempt
        again = any(index > chosen and recorded[index].attempt == attempt for index in unused)
        return ReplayResult(recorded[chosen].response, again)

    def _mismatch(self, provider: str, request: Request, alike: list[int]) -> str:
        what = _kind(provider, request)
        if not self._cassette.header.complete:
            return (
                f"The cassette has no answer to {what}: its recording reached the size limit. "
                "Record a shorter run."
            )
        if alike:
            return (
                f"The agent makes this request ({what}) more often than when the cassette was "
                f"recorded, and has used {counted(len(alike), 'answer')}. Record it again."
            )
        nearest = min(self._differing(what, request), key=len, default=None)
        if nearest is None:
            kinds = {_kind(each.provider, each.request) for each in self._cassette.interactions}
            recorded = ", ".join(sorted(kinds)[:_SHOWN]) or "nothing"
            return (
                f"The cassette has no answer to {what}; its requests are: {recorded}. "
                "Record it again."
            )
        more = len(nearest) - _SHOWN
        rest = f"; and at {more} more places" if more > 0 else ""
        return (
            f"The cassette has no answer to this request ({what}). The most similar recorded one "
            f"differs in {'; '.join(nearest[:_SHOWN])}{rest}. Undo the change, or record it again."
        )

    def _differing(self, what: str, request: Request) -> Iterator[list[str]]:
        """Yield the differences from recorded requests of the same kind, unused ones first."""
        now = relevant(request, masked)
        same_kind = [
            (index not in self._unused, index)
            for index, each in enumerate(self._cassette.interactions)
            if _kind(each.provider, each.request) == what
        ]
        for _, index in sorted(same_kind)[:_COMPARED]:
            then = relevant(self._cassette.interactions[index].request, masked)
            yield list(islice(differences(then, now), _COUNTED))


def _kind(provider: str, request: Request) -> str:
    return f"{request.method} {request.path} of {provider}"


_GROWING = ("content", "partial_json", "reasoning", "reasoning_content", "text", "thinking")
"""The text fields of a delta that continue those of the delta before."""


def joined(items: Sequence[StreamItem]) -> tuple[StreamItem, ...]:
    """Return a stream with consecutive pieces of the same text joined.

    Providers cut texts anywhere, and a secret that must be masked may span two pieces.
    """
    whole: list[StreamItem] = []
    for item in items:
        before = whole[-1] if whole else None
        if not (
            isinstance(before, JsonEvent) and isinstance(item, JsonEvent) and _grows(before, item)
        ):
            whole.append(item)
    return tuple(whole)


def _grows(before: JsonEvent, item: JsonEvent) -> bool:
    """Append the text of `item` to `before` if they differ in nothing else; return whether."""
    first, second = _text_of(before.data), _text_of(item.data)
    if first is None or second is None or before.event != item.event:
        return False
    (place, name), (other, other_name) = first, second
    begun, more = place[name], other[other_name]
    place[name] = other[other_name] = ""
    alike = name == other_name and before.data == item.data
    place[name], other[other_name] = (begun + more if alike else begun), more
    return alike


def _text_of(data: dict[str, JsonValue]) -> tuple[dict[str, JsonValue], str] | None:
    """Return the object and the field that hold the only text of an event, or None."""
    delta = data.get("delta")
    choices = data.get("choices")
    if isinstance(choices, list) and len(choices) == 1 and isinstance(choices[0], dict):
        delta = choices[0].get("delta")
    if not isinstance(delta, dict):
        return None
    found = [(delta, name) for name in _GROWING if isinstance(delta.get(name), str)]
    calls = delta.get("tool_calls")
    if isinstance(calls, list) and len(calls) == 1 and isinstance(calls[0], dict):
        function = calls[0].get("function")
        if isinstance(function, dict) and isinstance(function.get("arguments"), str):
            found.append((function, "arguments"))
    return found[0] if len(found) == 1 else None
