"""The contents of OpenAI's chat completions, as servers really write them.

Many servers implement this protocol, with small differences. Everything here returns OpenAI's own
form, or raises AnswerError.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

STOP = "stop"
LENGTH = "length"
TOOL_CALLS = "tool_calls"
CONTENT_FILTER = "content_filter"

MAX_COUNT = 2**31 - 1
SHOWN = 300
"""Characters of an unusable answer that an error shows."""

_ENDINGS = {
    STOP: "stop eos eos_token end end_turn stop_sequence stop_token complete completed finish "
    "finished",
    LENGTH: "length max_tokens max_output_tokens max_completion_tokens max_length model_length "
    "token_limit context_length context_window model_context_window_exceeded",
    TOOL_CALLS: "tool_calls tool_call tool_use function_call function_calls",
    CONTENT_FILTER: "content_filter content_filtered refusal safety recitation blocklist spii "
    "prohibited_content guardrail_intervened sensitive",
}
_MEANING = {word: ending for ending, words in _ENDINGS.items() for word in words.split()}
_OF_CALLS = frozenset({"index", "id", "type", "function"})
_FIRST_ERROR, _LAST_ERROR = 400, 599


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
    meaning = (
        _MEANING.get(reason.strip().lower().replace("-", "_")) if isinstance(reason, str) else None
    )
    if meaning is None:
        raise AnswerError(f"it ended its answer with the finish reason {shown(reason)}")
    return meaning


@dataclass(slots=True)
class Usage:
    """Tokens of one answer. Counts are totals: the highest of each is kept."""

    prompt: int = 0
    completion: int = 0
    cached: int = 0

    def take(self, usage: object) -> None:
        """Add the counts of a `usage` object; values that are not counts are skipped."""
        if not isinstance(usage, Mapping):
            return
        details = usage.get("prompt_tokens_details") or usage.get("input_tokens_details")
        prompt = _first(usage, "prompt_tokens", "input_tokens")
        completion = _first(usage, "completion_tokens", "output_tokens")
        total = count_of(usage.get("total_tokens"))
        cached = _first(details, "cached_tokens") or _first(
            usage, "cached_tokens", "prompt_cache_hit_tokens"
        )
        if (
            prompt
            and total > prompt + completion
            and completion + _thought(usage) <= total - prompt
        ):
            # the count of the answer is missing, or excludes its reasoning
            completion = total - prompt if not completion else completion + _thought(usage)
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

    def take(self, pieces: object) -> None:
        """Add the `tool_calls` of a chunk or a message; AnswerError if they are not a list."""
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
        taken: set[str] = set()
        return [
            self._finished(call, f"call_{mark}_{n}", taken) for n, call in enumerate(self._calls)
        ]

    def __bool__(self) -> bool:
        """Whether there is one."""
        return bool(self._calls)

    def _finished(self, call: _Call, own_id: str, taken: set[str]) -> dict[str, Any]:
        call_id = call.id if call.id and call.id not in taken else own_id
        taken.add(call_id)
        empty = call.arguments.strip() in ("", "null")
        function = {"name": call.name, "arguments": "{}" if empty else call.arguments}
        return {**call.more, "id": call_id, "type": "function", "function": function}

    def _piece(self, piece: Mapping[str, Any]) -> None:
        function = piece.get("function")
        function = function if isinstance(function, Mapping) else {}
        name, arguments = function.get("name"), function.get("arguments")
        name = name if isinstance(name, str) else ""
        call = self._call_of(piece.get("index"), _text(piece.get("id")), name)
        call.id = call.id or _text(piece.get("id"))
        if name != call.name:
            call.name += name
        if isinstance(arguments, str):
            call.arguments += arguments
        elif arguments is not None:
            call.arguments = json.dumps(arguments, ensure_ascii=False)
        call.more.update({key: value for key, value in piece.items() if key not in _OF_CALLS})

    def _call_of(self, index: object, call_id: str | None, name: str) -> _Call:
        """Return the call of a piece: found by its index, else by its id, else the last one."""
        place = index if isinstance(index, int) and not isinstance(index, bool) else None
        if place is not None:
            call = self._by_index.get(place)
            begins = call is None or (
                (call_id is not None and call.id is not None and call_id != call.id)
                or bool(name and call.name and call.whole)
            )
            if call is None or begins:
                call = self._by_index[place] = self._new()
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
    message = message_of(error) or shown(error)
    status = None
    for source in (error, answer):
        if isinstance(source, Mapping):
            for name in ("code", "status", "status_code"):
                code = source.get(name)
                if isinstance(code, int) and _FIRST_ERROR <= code <= _LAST_ERROR:
                    status = status or code
    raise AnswerError(message, status=status)


def completion_of(answer: object) -> dict[str, Any]:
    """Return a completion in OpenAI's form, with one choice, and usage if it was reported.

    Raises AnswerError for anything that is not a complete completion.
    """
    if isinstance(answer, list) and len(answer) == 1:
        answer = answer[0]  # Google's errors
    if not isinstance(answer, Mapping):
        raise AnswerError(f"it sent {shown(answer)}")
    choice = choice_of(answer)
    if choice is None:
        raise AnswerError(f"the answer holds no choices: {message_of(answer) or shown(answer)}")
    message = choice.get("message")
    if not isinstance(message, Mapping):
        raise AnswerError(f"the answer holds no message: {shown(choice)}")
    usage = usage_of(answer)
    calls = ToolCalls()
    calls.take(pieces_of(message))
    kept = {
        key: value for key, value in message.items() if key not in ("tool_calls", "function_call")
    }
    if calls:
        kept["tool_calls"] = calls.as_list(str(answer.get("id")))
    elif not isinstance(message.get("content"), (str, list)) and not message.get("refusal"):
        kept["content"] = ""
    ending = ending_of(choice.get("finish_reason"))
    kept.setdefault("role", "assistant")
    kept.setdefault("content", None)
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


def usage_of(answer: Mapping[str, Any]) -> Usage:
    """Return the usage in a chunk or a completion, wherever servers put it."""
    usage = Usage()
    usage.take(answer.get("usage"))
    for place in (answer.get("x_groq"), *_mappings(answer.get("choices"))):
        if isinstance(place, Mapping):
            usage.take(place.get("usage"))
    return usage


def pieces_of(message: Mapping[str, Any]) -> object:
    """Return the tool calls of a message or a delta, including the older `function_call`."""
    function = message.get("function_call")
    if isinstance(function, Mapping) and not message.get("tool_calls"):
        return [{"index": 0, "function": function}]
    return message.get("tool_calls")


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


def _thought(usage: Mapping[str, Any]) -> int:
    details = usage.get("completion_tokens_details") or usage.get("output_tokens_details")
    return _first(details, "reasoning_tokens")


def _first(source: object, *names: str) -> int:
    if not isinstance(source, Mapping):
        return 0
    return next((count for name in names if (count := count_of(source.get(name)))), 0)


def _mappings(value: object) -> Iterator[Mapping[str, Any]]:
    return (
        (each for each in value if isinstance(each, Mapping))
        if isinstance(value, list)
        else iter(())
    )


def _text(value: object) -> str | None:
    """Return an id as text; some servers number their calls."""
    if isinstance(value, bool) or value is None or value == "":
        return None
    return str(value) if isinstance(value, (str, int)) else None
