"""Chooses the recorded answer of a request, and describes the differences where there is none."""

import hashlib
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import orjson

from celeriac.domain.cassettes.format import Cassette, JsonEvent, Request, Response, StreamItem
from celeriac.domain.errors import CassetteMismatchError
from celeriac.kit.json_types import JsonValue, dumps
from celeriac.kit.text import clip
from celeriac.kit.words import counted

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
_SHOWN_DIFFERENCES = 60
_MISSING = object()


def unmasked(text: str) -> str:
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
        return clip(dumps(value), _SHOWN_DIFFERENCES)
    begin = 0
    if isinstance(other, str):
        pairs = enumerate(zip(value, other, strict=False))
        parting = next((i for i, (a, b) in pairs if a != b), min(len(value), len(other)))
        begin = max(0, parting - _SHOWN_DIFFERENCES // 3)
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
    """Whether the same attempt made the same request once more, as after a failure."""


class Replayer:
    """Gives each request of one attempt its recorded answer; not to be shared between threads.

    A recorded answer is given once. Alike requests get theirs in the order of the recording, those
    that the same attempt got first, so that a retry meets what the retry met. A request that is not
    in the cassette as it is may differ in ids, dates and times. The order of different requests
    makes no difference, so that an agent may make several at once.
    """

    def __init__(self, cassette: Cassette, *, attempt: int) -> None:
        """Play `cassette` to the attempt number `attempt`, from its beginning."""
        self._cassette = cassette
        self._attempt = attempt
        self._unused = set(range(len(cassette.interactions)))
        self._exact: dict[bytes, list[int]] = defaultdict(list)
        self._alike: dict[bytes, list[int]] = defaultdict(list)
        for index, each in enumerate(cassette.interactions):
            self._exact[fingerprint(each.provider, each.request, unmasked)].append(index)
            self._alike[fingerprint(each.provider, each.request, masked)].append(index)

    def answer(self, provider: str, request: Request) -> ReplayResult:
        """Return the answer to a request to `provider`.

        Raises CassetteMismatchError that says where the nearest recorded request differs.
        """
        exact = self._exact.get(fingerprint(provider, request, unmasked), [])
        alike = self._alike.get(fingerprint(provider, request, masked), [])
        for found in (exact, alike):
            unused = [index for index in found if index in self._unused]
            if unused:
                return self._take(unused)
        raise CassetteMismatchError(self._complaint(provider, request, alike))

    def _take(self, unused: list[int]) -> ReplayResult:
        recorded = self._cassette.interactions
        chosen = min(unused, key=lambda index: (recorded[index].attempt != self._attempt, index))
        self._unused.discard(chosen)
        attempt = recorded[chosen].attempt
        again = any(index > chosen and recorded[index].attempt == attempt for index in unused)
        return ReplayResult(recorded[chosen].response, again)

    def _complaint(self, provider: str, request: Request, alike: list[int]) -> str:
        what = _kind(provider, request)
        if not self._cassette.header.complete:
            return (
                f"The cassette has no answer to {what}: its recording was stopped at a size limit. "
                "Record a shorter run."
            )
        if alike:
            return (
                f"The agent makes this request ({what}) more often than when the cassette was "
                f"recorded, and got {counted(len(alike), 'answer')} already. Record it anew."
            )
        nearest = min(self._differing(what, request), key=len, default=None)
        if nearest is None:
            kinds = {_kind(each.provider, each.request) for each in self._cassette.interactions}
            recorded = ", ".join(sorted(kinds)[:_SHOWN]) or "nothing"
            return f"The cassette has no answer to {what}; recorded is {recorded}. Record it anew."
        more = len(nearest) - _SHOWN
        rest = f"; and at {more} more places" if more > 0 else ""
        return (
            f"The cassette has no answer to this request ({what}). The nearest one recorded "
            f"differs in {'; '.join(nearest[:_SHOWN])}{rest}. Undo the change, or record it anew."
        )

    def _differing(self, what: str, request: Request) -> Iterator[list[str]]:
        """Yield where recorded requests of the same kind differ, those still unanswered first."""
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
"""The fields of a delta whose texts follow one another."""


def joined(items: Sequence[StreamItem]) -> tuple[StreamItem, ...]:
    """Return a stream with each run of pieces of the same text as one piece.

    How a provider cut its text says nothing, and a word that must not be kept may lie across a cut.
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
    """Add the text of `item` to `before` where nothing else tells them apart."""
    first, second = _text_of(before.data), _text_of(item.data)
    if first is None or second is None or before.event != item.event:
        return False
    (place, name), (other, other_name) = first, second
    said, more = place[name], other[other_name]
    place[name] = other[other_name] = ""
    alike = name == other_name and before.data == item.data
    place[name], other[other_name] = (said + more if alike else said), more
    return alike


def _text_of(data: dict[str, JsonValue]) -> tuple[dict[str, JsonValue], str] | None:
    """Return where an event holds the one text that it adds, or None."""
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
