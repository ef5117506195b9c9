"""What providers send, as data, and what must come of it.

Each row is one answer to a chat completion: the bytes of its body, its status and headers, and the
outcome of the run, of its model calls and of its wait. `STREAMS` are answers to a request for a
stream; `WHOLES` are completions in one piece; `REFUSALS` are errors and hints to wait. Runners
that ask for whole completions are held against the last two.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

DONE = "[DONE]"
ANY = object()
Headers = Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Sent:
    """An answer as it goes over the wire; `headers` may depend on the time."""

    body: bytes = b""
    status: int = 200
    headers: Headers | Callable[[], Headers] = field(default_factory=dict)
    dropped: bool = False
    """Whether the connection is cut after the body."""

    def now(self) -> Headers:
        """Return the headers at this moment."""
        return self.headers() if callable(self.headers) else self.headers


@dataclass(frozen=True, kw_only=True)
class Due:
    """What must come of an answer: a result, or an error; and what is recorded of it."""

    result: object = None
    code: str | None = None
    words: str = ""
    """Part of the error's message."""
    retryable: bool = True
    finish: str | None = "stop"
    """The finish reason of its model call; None where no call is charged."""
    tokens: tuple[int, int, int] | None = (10, 5, 0)
    """Input, output, and cached ones; None where the provider doesn't say."""
    thought: str = ""
    truncated: bool = False
    wait: float | None = None
    """Seconds until the next try at the earliest; the execution holds no slot meanwhile."""
    requests: int = 1
    asked: tuple[str, ...] = ()
    """Questions that the answer's tool calls ask a person."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One answer and its outcome."""

    name: str
    sent: Sent
    due: Due


USAGE = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
UNKNOWN = (0, 0, 0)
HEAD = {
    "id": "chatcmpl-7",
    "object": "chat.completion.chunk",
    "created": 1_700_000_000,
    "model": "m",
}


def chunk(choice: object = None, **fields: object) -> dict[str, Any]:
    """Return one chunk; without a choice it has none."""
    return {**HEAD, "choices": [] if choice is None else [choice], **fields}


def say(text: object, reason: object = None, **delta: object) -> dict[str, Any]:
    """Return a chunk with a piece of text."""
    delta = {"content": text, **delta}
    return chunk({"index": 0, "delta": delta, "finish_reason": reason})


def stop(reason: object = "stop", **fields: object) -> dict[str, Any]:
    """Return the chunk that gives the finish reason."""
    return chunk({"index": 0, "delta": {}, "finish_reason": reason}, **fields)


def used(usage: object = None) -> dict[str, Any]:
    """Return the chunk that tells the usage."""
    return chunk(usage=USAGE if usage is None else usage)


def sse(*events: object, end: str = "\n\n") -> bytes:
    """Return events as bytes; bytes among them stand as they are."""
    parts = []
    for event in events:
        if isinstance(event, bytes):
            parts.append(event)
        else:
            data = event if isinstance(event, str) else json.dumps(event)
            parts.append(f"data: {data}{end}".encode())
    return b"".join(parts)


def stream(*events: object, dropped: bool = False, kind: str = "text/event-stream") -> Sent:
    """Return a streamed answer."""
    return Sent(body=sse(*events), headers={"content-type": kind}, dropped=dropped)


def said(*events: object, text: str = "A") -> Sent:
    """Return a good stream of `text`, with `events` before it."""
    return stream(*events, say(text), stop(), used(), DONE)


def whole(reason: object = "stop", usage: object = ANY, **message: object) -> dict[str, Any]:
    """Return a whole completion."""
    message = {"role": "assistant", "content": "AB", **message}
    choice = {"index": 0, "message": message, "finish_reason": reason}
    body = {**HEAD, "object": "chat.completion", "choices": [choice]}
    return body if usage is None else {**body, "usage": USAGE if usage is ANY else usage}


def body(
    value: object, *, kind: str = "application/json", status: int = 200, **headers: str
) -> Sent:
    """Return an answer in one piece; what is no text or bytes is sent as JSON."""
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    return Sent(body=data, status=status, headers={"content-type": kind, **_names(headers)})


def refusal(status: int, **headers: str) -> Sent:
    """Return a refusal; underscores in header names become hyphens."""
    return body({"error": {"message": "No."}}, status=status, **headers)


def later(seconds: float, write: Callable[[datetime], str], name: str, status: int = 429) -> Sent:
    """Return a refusal whose header `name` says when, `seconds` after it is sent."""

    def headers() -> Headers:
        return {name: write(datetime.now(UTC) + timedelta(seconds=seconds))}

    return Sent(body=b'{"error": {"message": "No."}}', status=status, headers=headers)


def call(number: object = 0, **fields: object) -> dict[str, Any]:
    """Return a piece of a call of `ask_person`; `name` and `arguments` are its function's."""
    function = {key: fields.pop(key) for key in ("name", "arguments") if key in fields}
    piece = {"index": number, "function": function, **fields}
    return {key: value for key, value in piece.items() if value is not ANY}


def calls(*pieces: dict[str, Any], reason: object = "tool_calls") -> Sent:
    """Return a stream of pieces of calls, each in a chunk of its own."""
    deltas = [
        chunk({"index": 0, "delta": {"tool_calls": [piece]}, "finish_reason": None})
        for piece in pieces
    ]
    return stream(*deltas, stop(reason), used(), DONE)


def question(text: str) -> str:
    """Return the arguments of a question."""
    return json.dumps({"question": text})


def _names(headers: Mapping[str, str]) -> dict[str, str]:
    return {name.replace("_", "-"): value for name, value in headers.items()}


def _date(moment: datetime) -> str:
    return format_datetime(moment, usegmt=True)


def _row(name: str, sent: Sent, **due: Any) -> Row:
    return Row(name=name, sent=sent, due=Due(**due))


def _broken(name: str, sent: Sent, words: str = "", **due: Any) -> Row:
    given = {"finish": "unfinished", "tokens": UNKNOWN, **due}
    return Row(name=name, sent=sent, due=Due(code="provider_error", words=words, **given))


def _nothing(name: str, sent: Sent, words: str, **due: Any) -> Row:
    return _broken(name, sent, words, finish=None, **due)


HALF = say("Half an ans")
_ASK = {"id": "call_a", "type": "function", "name": "ask_person"}
_ASKED = {"finish": "tool_call", "asked": ("One?",)}
_TWO = {"finish": "tool_call", "asked": ("One?", "Two?")}

STREAMS: tuple[Row, ...] = (
    # events
    _row("a retry field before the answer", said(b"retry: 3000\n\n"), result="A"),
    _row("empty data between chunks", stream(say("A"), b"data:\n\n", say("B"), stop(), used(), DONE), result="AB"),
    _row("data that is a space", said(b"data: \n\n"), result="A"),
    _row("an id and then comments", said(b"id: 1\n\n", b": ping\n\n"), result="A"),
    _row("a comment", said(b": OPENROUTER PROCESSING\n\n"), result="A"),
    _row("a named ping with JSON", said(b'event: ping\ndata: {"type": "ping"}\n\n'), result="A"),
    _row("an empty object", said({}), result="A"),
    _row("null", said(b"data: null\n\n"), result="A"),
    _row("a byte order mark", stream(b"\xef\xbb\xbf", say("A"), say("B"), stop(), used(), DONE), result="AB"),
    _row("carriage returns", Sent(body=sse(say("A"), stop(), used(), DONE, end="\r\r")), result="A"),
    _row("both line ends", Sent(body=sse(say("A"), stop(), used(), DONE, end="\r\n\r\n")), result="A"),
    _row("separators of lines in the text", said(text="a\u2028b\u0085c"), result="a\u2028b\u0085c"),
    _row("data over two lines", stream(b'data: {"choices":\ndata: [{"delta": {"content": "A"}}]}\n\n', stop(), used(), DONE), result="A"),
    _row("no empty line at the end", stream(say("A"), stop(), used(), b"data: [DONE]"), result="A"),
    _row("no content type", Sent(body=sse(say("A"), stop(), used(), DONE)), result="A"),
    _row("a stream as plain text", stream(say("A"), stop(), used(), DONE, kind="text/plain"), result="A"),
    _row("bytes that are no text", stream(b'data: {"choices":[{"delta":{"content":"a\xffb"}}]}\n\n', stop(), used(), DONE), result="a\ufffdb"),
    _broken("an event that is no JSON", stream(HALF, b'data: {"choices": [{"del\n\n', stop()), "no JSON"),
    _broken("an event that is a list", stream(HALF, [1], stop()), "no object"),
    _broken("choices that are none", stream(HALF, {"choices": "none"}, stop()), "choices"),
    _broken("text that is none", stream(HALF, say(7), stop()), "text"),
    # what is no stream
    _nothing("an empty body", stream(), "empty"),
    _nothing("an HTML page", body(b"<html>Gateway</html>", kind="text/html"), "text/html"),
    _nothing("words", body(b"upstream connect error", kind="text/plain"), "upstream connect"),
    _nothing("a JSON list", body([1, 2]), "[1, 2]"),
    _nothing("JSON without an answer", body({"detail": "the model is loading"}), "loading"),
    _nothing("lines of JSON", body(b'{"response": "A"}\n{"response": "B"}\n'), "no answer"),
    _nothing("a stream of comments", stream(b": ping\n\n"), "no answer"),
    _nothing("the end alone", stream(DONE), "no answer"),
    # errors that come as a success
    _broken("an error within", stream(HALF, {"error": {"message": "GPU lost"}}), "GPU lost"),
    _broken("a named error within", stream(HALF, b'event: error\ndata: {"message": "GPU lost"}\n\n'), "GPU lost"),
    _nothing("an error of vLLM", body({"object": "error", "message": "GPU lost", "code": 500}), "GPU lost"),
    _nothing("an error as a text", stream({"error": "GPU lost"}), "GPU lost"),
    _row("a refusal that comes as a success", body({"error": {"message": "No such model", "code": 404}}), code="provider_refused", retryable=False, words="model name", finish=None),
    _row("a limit that comes as a success", body({"error": {"message": "Slow", "code": 429}}), code="provider_rate_limited", finish=None),
    _row("a limit within an answer", stream(HALF, {"error": {"message": "Slow", "code": 429}}), code="provider_rate_limited", finish="unfinished", tokens=UNKNOWN),
    # how it ended
    *(
        _broken(f"the finish reason {reason}", stream(HALF, stop(reason), used(), DONE), "finish reason", tokens=(0, 0, 0))
        for reason in ("error", "abort", "aborted", "insufficient_system_resource", "cancelled", "timeout", "7")
    ),
    _broken("a finish reason that is a number", stream(HALF, stop(1), DONE), "finish reason"),
    _broken("a bad end with its usage", stream(HALF, stop("error", usage=USAGE), DONE), "error", tokens=(10, 5, 0)),
    *(
        _row(f"the finish reason {reason!r}", stream(say("AB"), stop(reason), used(), DONE), result="AB")
        for reason in ("eos", "eos_token", "stop_sequence", "end_turn", "STOP", "", None)
    ),
    _row("a reason beside the text", stream(say("AB", "stop"), used(), DONE), result="AB"),
    _row("a reason and no mark of the end", stream(say("AB"), stop(), used()), result="AB"),
    _row("a connection cut after the reason", stream(say("AB"), stop(), used(), dropped=True), result="AB"),
    _broken("no reason, no mark, an end in good form", stream(HALF), "broke off"),
    _broken("an empty reason and no mark", stream(HALF, stop("")), "broke off"),
    _broken("a connection cut in the text", stream(HALF, dropped=True), "connection"),
    _broken("a connection cut in an event", stream(HALF, b'data: {"choices": [{"del', dropped=True), "connection"),
    *(
        _row(f"cut off, {reason}", stream(say("Once upon a"), stop(reason), used(), DONE), result="Once upon a", truncated=True, finish="length")
        for reason in ("length", "max_tokens", "MAX_TOKENS", "model_length", "model_context_window_exceeded")
    ),
    _row("cut off before it began", stream(stop("length"), used(), DONE), code="output_invalid", words="max_output_tokens", finish="length"),
    _row("nothing said", stream(say(""), stop(), used(), DONE), code="output_invalid", words="nothing", requests=2),
    *(
        _row(f"filtered, {reason}", stream(HALF, stop(reason), used(), DONE), code="content_filtered", retryable=False, finish="content_filter")
        for reason in ("content_filter", "SAFETY", "guardrail_intervened")
    ),
    # usage
    _row("no usage", stream(say("A"), stop(), DONE), result="A", tokens=UNKNOWN),
    _row("usage in every chunk", stream(chunk({"delta": {"content": "A"}}, usage={"prompt_tokens": 10, "completion_tokens": 1}), stop(usage=USAGE), DONE), result="A"),
    _row("usage that falls back to zero", stream(say("A"), stop(usage=USAGE), used({"prompt_tokens": 0, "completion_tokens": 0}), DONE), result="A"),
    _row("usage as texts", stream(say("A"), stop(), used({"prompt_tokens": "10", "completion_tokens": "5"}), DONE), result="A"),
    _row("usage as fractions", stream(say("A"), stop(), used({"prompt_tokens": 10.0, "completion_tokens": 5.0}), DONE), result="A"),
    _row("usage below zero", stream(say("A"), stop(), used({"prompt_tokens": 10, "completion_tokens": -5}), DONE), result="A", tokens=(10, 0, 0)),
    _row("usage of null", stream(say("A"), stop(), used({"prompt_tokens": 10, "completion_tokens": 5, "prompt_tokens_details": None, "total_tokens": None}), DONE), result="A"),
    _row("usage that is a text", stream(say("A"), stop(), used("a lot"), DONE), result="A", tokens=UNKNOWN),
    _row("usage without end", stream(say("A"), stop(), used({"prompt_tokens": 10**30, "completion_tokens": 5}), DONE), result="A", tokens=(2**31 - 1, 5, 0)),
    _row("usage in the choice", stream(say("A"), chunk({"delta": {}, "finish_reason": "stop", "usage": USAGE}), DONE), result="A"),
    _row("usage of Groq", stream(say("A"), stop(x_groq={"usage": USAGE}), DONE), result="A"),
    _row("usage by other names", stream(say("A"), stop(), used({"input_tokens": 10, "output_tokens": 5}), DONE), result="A"),
    _row("usage as a total", stream(say("A"), stop(), used({"prompt_tokens": 10, "total_tokens": 15}), DONE), result="A"),
    _row("thought that is left out of the answer's count", stream(say("A"), stop(), used({"prompt_tokens": 10, "completion_tokens": 2, "total_tokens": 15, "completion_tokens_details": {"reasoning_tokens": 3}}), DONE), result="A"),
    _row("cached tokens", stream(say("A"), stop(), used({**USAGE, "prompt_tokens_details": {"cached_tokens": 4}}), DONE), result="A", tokens=(10, 5, 4)),
    _row("cached tokens of DeepSeek", stream(say("A"), stop(), used({**USAGE, "prompt_cache_hit_tokens": 4}), DONE), result="A", tokens=(10, 5, 4)),
    _row("more cached than read", stream(say("A"), stop(), used({**USAGE, "prompt_tokens_details": {"cached_tokens": 99}}), DONE), result="A", tokens=(10, 5, 10)),
    # reasoning
    _row("thoughts in a field", stream(say(None, reasoning_content="Hm."), say("A"), stop(), used(), DONE), result="A", thought="Hm."),
    _row("thoughts in the other field", stream(say("", reasoning="Hm."), say("A"), stop(), used(), DONE), result="A", thought="Hm."),
    _row("thoughts in the text", stream(say("<think>Hm.</think>\n\nA"), stop(), used(), DONE), result="A", thought="Hm."),
    _row("thoughts in the text, cut anywhere", stream(*map(say, ("\n<th", "ink>H", "m", ".</thi", "nk>", "\n", "A")), stop(), used(), DONE), result="A", thought="Hm."),
    _row("thoughts in the text, by tokens", stream(*map(say, ("<think>", "Hm.", "</think>", "A")), stop(), used(), DONE), result="A", thought="Hm."),
    _row("a tag within the text", stream(say("Write "), say("<think>"), say("."), stop(), used(), DONE), result="Write <think>."),
    _row("thoughts alone", stream(say("<think>Hm."), stop("length"), used(), DONE), code="output_invalid", words="max_output_tokens", finish="length", thought="Hm."),
    _row("thoughts that are no text", stream(say("A", reasoning={"a": 1}), stop(), used(), DONE), result="A"),
    # other shapes
    _row("text as parts", stream(say([{"type": "text", "text": "A"}]), stop(), used(), DONE), result="A"),
    _row("no delta", stream(say("A"), chunk({"index": 0, "delta": None, "finish_reason": "stop"}), used(), DONE), result="A"),
    _row("a message in a stream", stream(chunk({"message": {"content": "AB"}, "finish_reason": "stop"}, usage=USAGE), DONE), result="AB"),
    _row("a second choice", stream(say("A"), {**HEAD, "choices": [{"index": 0, "delta": {"content": "B"}}, {"index": 1, "delta": {"content": "X"}}]}, stop(), used(), DONE), result="AB"),
    _row("no choices but usage in the first chunk", stream(used(), say("A"), stop(), DONE), result="A"),
    # calls of tools
    _row("a call in pieces", calls(call(**_ASK, arguments='{"que'), call(arguments='stion": "One?"}')), **_ASKED),
    _row("a call without an id", calls(call(name="ask_person", arguments=question("One?"))), **_ASKED),
    _row("an empty id", calls(call(id="", name="ask_person", arguments=question("One?"))), **_ASKED),
    _row("an index of null", calls(call(None, **_ASK, arguments='{"que'), call(None, arguments='stion": "One?"}')), **_ASKED),
    _row("no index", calls(call(ANY, **_ASK, arguments=question("One?"))), **_ASKED),
    _row("indexes from one", calls(call(1, **_ASK, arguments=question("One?")), call(2, id="b", name="ask_person", arguments=question("Two?"))), **_TWO),
    _row("one index for all calls", calls(call(0, **_ASK, arguments=question("One?")), call(0, id="b", name="ask_person", arguments=question("Two?"))), **_TWO),
    _row("one index and no ids", calls(call(0, name="ask_person", arguments=question("One?")), call(0, name="ask_person", arguments=question("Two?"))), **_TWO),
    _row("one id for all calls", calls(call(0, **_ASK, arguments=question("One?")), call(1, **_ASK, arguments=question("Two?"))), **_TWO),
    _row("no ids and no indexes", calls(call(None, name="ask_person", arguments=question("One?")), call(None, name="ask_person", arguments=question("Two?"))), **_TWO),
    _row("the name again with each piece", calls(call(**_ASK, arguments='{"que'), call(**_ASK, arguments='stion": "One?"}')), **_ASKED),
    _row("an id in a later piece", calls(call(name="ask_person", arguments=""), call(id="x", arguments=question("One?"))), **_ASKED),
    _row("arguments as an object", calls(call(**_ASK, arguments={"question": "One?"})), **_ASKED),
    _row("arguments in a later chunk", calls(call(**_ASK), call(arguments=None), call(arguments=question("One?"))), **_ASKED),
    _row("a call that ends with stop", calls(call(**_ASK, arguments=question("One?")), reason="stop"), asked=("One?",)),
    _row("a call that ends with tool_use", calls(call(**_ASK, arguments=question("One?")), reason="tool_use"), **_ASKED),
    _row("a call that ends with null", calls(call(**_ASK, arguments=question("One?")), reason=None), **_ASKED),
    _row("a call of the older form", stream(chunk({"delta": {"function_call": {"name": "ask_person", "arguments": question("One?")}}}), stop("function_call"), used(), DONE), **_ASKED),
    _row("a call cut off", calls(call(**_ASK, arguments='{"question": "On'), reason="length"), code="output_invalid", words="max_output_tokens", finish="length"),
    _broken("a call in half an answer", stream(chunk({"delta": {"tool_calls": [call(**_ASK, arguments=question("One?"))]}})), "broke off"),
    _broken("calls that are no list", stream(chunk({"delta": {"tool_calls": "ask"}}), stop()), "tool calls", finish=None),
    _row("the reason of calls without one", stream(say("A"), stop("tool_calls"), used(), DONE), result="A"),
)  # fmt: skip

WHOLES: tuple[Row, ...] = (
    _row("a completion", body(whole()), result="AB"),
    _row("a completion as an event stream", body(whole(), kind="text/event-stream"), result="AB"),
    _row("a completion without a reason", body(whole(None)), result="AB"),
    _row("a completion with the reason eos", body(whole("eos")), result="AB"),
    _row("a completion that is cut off", body(whole("length")), result="AB", truncated=True, finish="length"),
    _broken("a completion that ended in an error", body(whole("error")), "finish reason", tokens=(10, 5, 0)),
    _row("a filtered completion", body(whole("content_filter")), code="content_filtered", retryable=False, finish="content_filter"),
    _row("a completion without usage", body(whole(usage=None)), result="AB", tokens=UNKNOWN),
    _row("a completion with usage as texts", body(whole(usage={"prompt_tokens": "10", "completion_tokens": "5"})), result="AB"),
    _nothing("a completion without choices", body({**HEAD, "choices": []}), "no choices"),
    _nothing("a completion without a message", body({**HEAD, "choices": [{"index": 0}]}), "no message"),
    _nothing("half a completion", body(b'{"id": "chatcmpl-7", "choices": [{"mess'), "no answer"),
    _nothing("a whole HTML page", body(b"<html>Gateway</html>", kind="text/html"), "Gateway"),
    _nothing("an error in a whole success", body({"error": {"message": "GPU lost"}}), "GPU lost"),
    _row("a whole refusal as a success", body({"error": {"message": "No", "code": 401}}), code="provider_refused", retryable=False, words="API key", finish=None),
)  # fmt: skip

_LIMITED = {"code": "provider_rate_limited", "finish": None, "wait": 30.0}
_DOWN = {"code": "provider_error", "finish": None, "wait": 30.0}

REFUSALS: tuple[Row, ...] = (
    _row("429 with seconds", refusal(429, retry_after="30"), **_LIMITED),
    _row("429 with fractions", refusal(429, retry_after="30.5"), **_LIMITED | {"wait": 30.5}),
    _row("429 with a date", later(30, _date, "retry-after"), **_LIMITED),
    _row("429 with milliseconds", refusal(429, retry_after_ms="30000"), **_LIMITED),
    _row("429 with milliseconds and seconds", refusal(429, retry_after_ms="30000", retry_after="1"), **_LIMITED),
    _row("429 with the reset of requests", refusal(429, x_ratelimit_remaining_requests="0", x_ratelimit_reset_requests="30s", x_ratelimit_remaining_tokens="500", x_ratelimit_reset_tokens="6m0s"), **_LIMITED),
    _row("429 with the reset of tokens", refusal(429, x_ratelimit_remaining_tokens="0", x_ratelimit_reset_tokens="1m30.5s"), **_LIMITED | {"wait": 90.5}),
    _row("429 with a reset in seconds", refusal(429, ratelimit_reset="30"), **_LIMITED),
    _row("429 with a reset as a Unix time", later(30, lambda at: f"{at.timestamp():.3f}", "x-ratelimit-reset"), **_LIMITED),
    _row("429 with a reset as Unix milliseconds", later(30, lambda at: f"{at.timestamp() * 1000:.0f}", "x-ratelimit-reset"), **_LIMITED),
    _row("429 with a reset as a date", later(30, lambda at: at.isoformat(), "anthropic-ratelimit-requests-reset"), **_LIMITED),
    _row("429 with Google's delay", body([{"error": {"code": 429, "message": "Quota", "details": [{"retryDelay": "30s"}]}}], status=429), **_LIMITED),
    _row("429 for no credit", body({"error": {"message": "Quota", "code": "insufficient_quota"}}, status=429), code="provider_refused", retryable=False, words="credits", finish=None),
    _row("500 with milliseconds", refusal(500, retry_after_ms="30000"), **_DOWN),
    _row("503 with seconds", refusal(503, retry_after="30"), **_DOWN),
    _row("503 with a date", later(30, _date, "retry-after", 503), **_DOWN),
    _row("529 with seconds", refusal(529, retry_after="30"), **_DOWN),
    _row("502 with a page", body(b"<html>Bad gateway</html>", kind="text/html", status=502, retry_after="30"), **_DOWN),
)  # fmt: skip
"""Refusals after which nothing is asked for in the same attempt."""

PASSING: tuple[Row, ...] = (
    _row("429 with milliseconds that pass soon", refusal(429, retry_after_ms="20"), code="provider_rate_limited", finish=None, requests=3),
    _row("429 with a date that has passed", later(-5, _date, "retry-after"), code="provider_rate_limited", finish=None, requests=3),
    _row("503 that passes soon", refusal(503, retry_after="0"), code="provider_error", finish=None, requests=3),
    _row("500 whose wait is none", refusal(500, retry_after="soon", retry_after_ms="20"), code="provider_error", finish=None, requests=3),
    _row("500 that asks not to be repeated", refusal(500, x_should_retry="false"), code="provider_error", finish=None),
)  # fmt: skip
"""Refusals that the client itself repeats, within seconds."""
