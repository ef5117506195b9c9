"""The contents of OpenAI's chat completions, as servers really write them.

Many servers implement this protocol, with small differences. Everything here returns OpenAI's own
form, or raises AnswerError.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

from celeriac.domain.usage import MAX_COUNT

STOP = "stop"
TOOL_CALLS = "tool_calls"

SHOWN = 300
"""Characters of an unusable answer that an error shows."""

_ENDINGS = {
    STOP: "stop eos eos_token end end_turn stop_sequence stop_token complete completed finish "
    "finished",
    "length": "length max_tokens max_output_tokens max_completion_tokens max_length model_length "
    "token_limit context_length context_window model_context_window_exceeded",
    TOOL_CALLS: "tool_calls tool_call tool_use function_call function_calls",
    "content_filter": "content_filter content_filtered refusal safety recitation blocklist spii "
    "prohibited_content guardrail_intervened sensitive",
}
_MEANING = {word: ending for ending, words in _ENDINGS.items() for word in words.split()}
_OF_CALLS = frozenset({"index", "id", "type", "function"})
_ERRORS = range(400, 600)


class AnswerError(Exception):
    """A provider's answer is incomplete or no answer; `status` is the HTTP status that it names."""

    def __init__(self, message: str, *, status: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.status = status


def ending_of(reason: object) -> str | None:
    """Return a finish reason as OpenAI writes it; None where there is none (null or empty).

    Raises AnswerError for every other word: the answer before it may be incomplete.
    """
    if reason is None or reason == "":
        return None
    word = reason.strip().lower().replace("-", "_") if isinstance(reason, str) else ""
    if word not in _MEANING:
        raise AnswerError(f"it ended its answer with the finish reason {shown(reason)}")
    return _MEANING[word]


@dataclass(slots=True)
class Usage:
    """Tokens of one answer. Counts are totals: the highest of each is kept."""

    prompt: int = 0
    completion: int = 0
    cached: int = 0

    def read(self, answer: Mapping[str, Any]) -> None:
        """Add the usage in a chunk or a completion, wherever servers put it."""
        for place in (answer, answer.get("x_groq"), *objects_in(answer.get("choices"))):
            if isinstance(place, Mapping):
                self._take(part_of(place, "usage"))

    def _take(self, usage: Mapping[str, Any]) -> None:
        """Add the counts of a `usage` object; values that are not counts are skipped."""
        details = usage.get("prompt_tokens_details") or usage.get("input_tokens_details")
        prompt = _first(usage, "prompt_tokens", "input_tokens")
        completion = _first(usage, "completion_tokens", "output_tokens")
        total = count_of(usage.get("total_tokens"))
        cached = _first(details, "cached_tokens") or _first(
            usage, "cached_tokens", "prompt_cache_hit_tokens"
        )
        answered = usage.get("completion_tokens_details") or usage.get("output_tokens_details")
        thought = _first(answered, "reasoning_tokens")
        if prompt and total > prompt + completion and completion + thought <= total - prompt:
            # the count of the answer is missing, or excludes its reasoning
            completion = completion + thought if completion else total - prompt
        self.prompt = max(self.prompt, prompt)
        self.completion = max(self.completion, completion)
        self.cached = min(max(self.cached, cached), self.prompt)

    def __bool__(self) -> bool:
        """Whether anything was counted."""
        return bool(self.prompt or self.completion)

    def as_object(self) -> dict[str, Any]:
        """Return the counts in OpenAI's form."""
        return {
            "prompt_tokens": self.prompt,
            "completion_tokens": self.completion,
            "total_tokens": self.prompt + self.completion,
            "prompt_tokens_details": {"cached_tokens": self.cached},
        }


def count_of(value: object) -> int:
    """Return a count of tokens, which may be a float or a text; 0 for anything else."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return 0
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return 0
    return int(min(number, MAX_COUNT)) if number > 0 else 0


@dataclass(slots=True)
class _Call:
    id: str | None = None
    name: str = ""
    arguments: str = ""
    more: dict[str, Any] = field(default_factory=dict)

    @property
    def whole(self) -> bool:
        """Whether it has all its arguments."""
        try:
            return isinstance(json.loads(self.arguments), dict)
        except ValueError:
            return False


class ToolCalls:
    """Assembles the tool calls of one answer from its pieces."""

    def __init__(self) -> None:
        self._calls: list[_Call] = []
        self._by_index: dict[int, _Call] = {}

    def take(self, message: Mapping[str, Any]) -> None:
        """Add the calls of a message or a delta, including the older `function_call`.

        Raises AnswerError if its `tool_calls` are not a list.
        """
        pieces, function = message.get("tool_calls"), message.get("function_call")
        if isinstance(function, Mapping) and not pieces:
            pieces = [{"index": 0, "function": function}]
        if pieces is None:
            return
        if not isinstance(pieces, list) or not all(isinstance(each, Mapping) for each in pieces):
            raise AnswerError(f"its tool calls are no list: {shown(pieces)}")
        for piece in pieces:
            self._piece(piece)

    def as_list(self, seed: str) -> list[dict[str, Any]]:
        """Return the calls, with unique ids and JSON as arguments.

        Missing and repeated ids are derived from `seed`, so that a replay has the same ids.
        """
        mark = sha256(seed.encode(errors="replace")).hexdigest()[:8]
        found: list[dict[str, Any]] = []
        taken: set[str] = set()
        for number, call in enumerate(self._calls):
            call_id = call.id if call.id and call.id not in taken else f"call_{mark}_{number}"
            taken.add(call_id)
            empty = call.arguments.strip() in ("", "null")
            function = {"name": call.name, "arguments": "{}" if empty else call.arguments}
            found.append({**call.more, "id": call_id, "type": "function", "function": function})
        return found

    def __bool__(self) -> bool:
        """Whether there is one."""
        return bool(self._calls)

    def _piece(self, piece: Mapping[str, Any]) -> None:
        function = part_of(piece, "function")
        name, arguments = function.get("name"), function.get("arguments")
        name, call_id = name if isinstance(name, str) else "", _text(piece.get("id"))
        call = self._call_of(piece.get("index"), call_id, name)
        call.id = call.id or call_id
        if name != call.name:
            call.name += name
        if isinstance(arguments, str):
            call.arguments += arguments
        elif arguments is not None:
            call.arguments = json.dumps(arguments, ensure_ascii=False)
        call.more.update({key: value for key, value in piece.items() if key not in _OF_CALLS})

    def _call_of(self, index: object, call_id: str | None, name: str) -> _Call:
        """Return the call of a piece: found by its index, else by its id, else the last one."""
        if isinstance(index, int) and not isinstance(index, bool):
            call = self._by_index.get(index)
            if (
                call is None
                or (call_id and call.id and call_id != call.id)
                or (name and call.name and call.whole)
            ):
                call = self._by_index[index] = self._new()
            return call
        known = next((each for each in self._calls if call_id and each.id == call_id), None)
        if known is not None and not (name and known.whole):
            return known
        if name or not self._calls or (call_id and self._calls[-1].id):
            return self._new()
        return self._calls[-1]

    def _new(self) -> _Call:
        call = _Call()
        self._calls.append(call)
        return call


def choice_of(answer: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return the first choice of a chunk or a completion; None if there is none.

    Raises AnswerError for an error instead of an answer, and for invalid choices.
    """
    raise_error(answer)
    choices = answer.get("choices")
    if choices is None or choices == []:
        return None
    if not isinstance(choices, list) or not isinstance(choices[0], Mapping):
        raise AnswerError(f"its choices can't be read: {shown(choices)}")
    return choices[0]


def raise_error(answer: Mapping[str, Any]) -> None:
    """Raise AnswerError if the body of a successful response is an error."""
    error = answer.get("error")
    if not error and answer.get("object") == "error":
        error = answer
    if not error:
        return
    named = ("code", "status", "status_code")
    codes = [source.get(name) for source in objects_in([error, answer]) for name in named]
    status = next((code for code in codes if isinstance(code, int) and code in _ERRORS), None)
    raise AnswerError(message_of(error) or shown(error), status=status)


def completion_of(answer: object, usage: Usage) -> dict[str, Any]:
    """Return a completion in OpenAI's form, with one choice, and usage if it was reported.

    Adds what it used to `usage`. Raises AnswerError for anything that is not a complete completion.
    """
    if isinstance(answer, list) and len(answer) == 1:
        answer = answer[0]  # Google's errors
    if not isinstance(answer, Mapping):
        raise AnswerError(f"it sent {shown(answer)}")
    usage.read(answer)
    choice = choice_of(answer)
    if choice is None:
        raise AnswerError(f"the answer holds no choices: {message_of(answer) or shown(answer)}")
    message = choice.get("message")
    if not isinstance(message, Mapping):
        raise AnswerError(f"the answer holds no message: {shown(choice)}")
    calls = ToolCalls()
    calls.take(message)
    kept = {"role": "assistant", "content": None, **message}
    for name in ("tool_calls", "function_call"):
        kept.pop(name, None)
    if calls:
        kept["tool_calls"] = calls.as_list(str(answer.get("id")))
    elif not isinstance(message.get("content"), (str, list)) and not message.get("refusal"):
        kept["content"] = ""
    ending = ending_of(choice.get("finish_reason"))
    return {
        "id": str(answer.get("id") or ""),
        "object": "chat.completion",
        "created": count_of(answer.get("created")),
        "model": str(answer.get("model") or ""),
        "choices": [{"index": 0, "message": kept, "finish_reason": settled(ending, calls)}],
        **({"usage": usage.as_object()} if usage else {}),
    }


def settled(ending: str | None, calls: ToolCalls) -> str:
    """Return the finish reason of a complete answer that names `ending`, or none."""
    if ending is None:
        return TOOL_CALLS if calls else STOP
    return STOP if ending == TOOL_CALLS and not calls else ending


def message_of(body: object) -> str:
    """Return the text of an error body: OpenAI's `message`, or that of a nested `error`."""
    if isinstance(body, str):
        return body.strip()
    if isinstance(body, list) and len(body) == 1:
        return message_of(body[0])
    if not isinstance(body, Mapping):
        return ""
    inner = body.get("message") or body.get("error") or body.get("detail")
    return inner.strip() if isinstance(inner, str) else message_of(inner)


def shown(value: object) -> str:
    """Return the beginning of a value, for an error."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=repr)
    text = " ".join(text.split())
    return repr(text if len(text) <= SHOWN else text[: SHOWN - 1] + "…")


def _first(source: object, *names: str) -> int:
    if not isinstance(source, Mapping):
        return 0
    return next((count for name in names if (count := count_of(source.get(name)))), 0)


def part_of(source: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """Return the object `name` of an object, empty where it is none."""
    value = source.get(name)
    return value if isinstance(value, Mapping) else {}


def objects_in(value: object) -> list[Mapping[str, Any]]:
    """Return the objects of a list; none where `value` is not a list."""
    return [each for each in value if isinstance(each, Mapping)] if isinstance(value, list) else []


def _text(value: object) -> str | None:
    """Return an id as text; some servers number their calls."""
    usable = isinstance(value, (str, int)) and not isinstance(value, bool)
    return str(value) or None if usable else None
