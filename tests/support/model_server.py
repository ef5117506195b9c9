"""A scripted OpenAI-compatible server on the loopback: real HTTP, real streaming, no model.

What it answers is decided by the first word of the last user message (`tests.support.model_scenes`
holds the scenes).
"""

import json
from collections.abc import Callable, Sequence

from tests.support.scripted_server import Answering, Request, ScriptedServer

Scene = Callable[["Exchange"], None]


class Received(Request):
    """A chat completion that was asked for."""

    @property
    def prompt(self) -> str:
        """The text of the last user message."""
        users = [each for each in self.body["messages"] if each["role"] == "user"]
        return str(users[-1]["content"])

    @property
    def answered(self) -> list[str]:
        """What tools answered since the last user message, oldest first."""
        answers: list[str] = []
        for message in self.body["messages"]:
            if message["role"] == "tool":
                answers.append(str(message["content"]))
            elif message["role"] == "user":
                answers.clear()
        return answers

    @property
    def scene(self) -> str:
        """The first word that a user said."""
        users = [each for each in self.body["messages"] if each["role"] == "user"]
        return str(users[0]["content"]).split()[0]


class Exchange(Answering[Received]):
    """One request and its answer, as a scene writes it."""

    _calls = 0

    def error(self, status: int, error: object, **headers: str) -> None:
        """Refuse the request with a JSON body; underscores in header names become hyphens."""
        self.send(status, {"error": error}, headers)

    def answer_with(self, body: object) -> None:
        """Answer with any JSON, without streaming."""
        self.send(200, body, {})

    def complete(
        self,
        text: str | None,
        *,
        calls: Sequence[tuple[str, object]] = (),
        reason: str | None = None,
        usage: object = None,
    ) -> None:
        """Answer whole, without streaming: with a text, or with calls of tools."""
        message: dict[str, object] = {"role": "assistant", "content": text}
        if calls:
            message["tool_calls"] = [
                {
                    "id": f"call_{number}",
                    "type": "function",
                    "function": {"name": name, "arguments": json.dumps(arguments)},
                }
                for number, (name, arguments) in enumerate(calls, start=1)
            ]
        choice = {
            "index": 0,
            "message": message,
            "finish_reason": reason or ("tool_calls" if calls else "stop"),
        }
        self.answer_with(
            {
                "id": "chatcmpl-1",
                "object": "chat.completion",
                "created": 1_700_000_000,
                "model": self.received.body["model"],
                "choices": [choice],
                "usage": usage or tokens(10, 5),
            }
        )

    def begin(self) -> None:
        """Start the event stream."""
        self.begin_stream()

    def say(self, text: str, *, field: str = "content") -> None:
        """Stream a piece of the answer."""
        self.chunk(choices=[{"index": 0, "delta": {field: text}, "finish_reason": None}])

    def call(self, name: str, arguments: object, *, call_id: str = "call_1") -> None:
        """Stream a call of a tool, its arguments in two pieces; a text stands as it is."""
        text = arguments if isinstance(arguments, str) else json.dumps(arguments)
        function = {"name": name, "arguments": text[:3]}
        first = {"index": 0, "id": call_id, "type": "function", "function": function}
        rest = {"index": 0, "function": {"arguments": text[3:]}}
        for piece in (first, rest):
            delta = {"tool_calls": [piece | {"index": self._calls}]}
            self.chunk(choices=[{"index": 0, "delta": delta, "finish_reason": None}])
        self._calls += 1

    def calls(self, *calls: tuple[str, object]) -> None:
        """Stream a whole answer that is calls of tools, with their names and arguments."""
        self.begin()
        for number, (name, arguments) in enumerate(calls, start=1):
            self.call(name, arguments, call_id=f"call_{number}")
        self.stop("tool_calls")

    def stop(self, reason: str = "stop", *, usage: object = None) -> None:
        """Give the finish reason, then the usage (10 in, 5 out unless given), then end."""
        self.chunk(choices=[{"index": 0, "delta": {}, "finish_reason": reason}])
        if usage is not False:
            self.chunk(choices=[], usage=usage or tokens(10, 5))
        self.raw(b"data: [DONE]\n\n")
        self.finish()

    def answer(self, *pieces: str) -> None:
        """Stream a whole answer."""
        self.begin()
        for piece in pieces:
            self.say(piece)
        self.stop()

    def chunk(self, **fields: object) -> None:
        """Stream one chunk object."""
        chunk = {
            "id": "chatcmpl-1",
            "object": "chat.completion.chunk",
            "created": 1_700_000_000,
            "model": self.received.body["model"],
            **fields,
        }
        self.raw(f"data: {json.dumps(chunk)}\n\n".encode())


def tokens(prompt: int, completion: int, *, cached: int = 0) -> dict[str, object]:
    """Return a usage object as OpenAI writes it."""
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": cached},
    }


class ModelServer(ScriptedServer[Received, Exchange]):
    """The server; its scenes are functions of an `Exchange`."""

    reads = Received
    answers = Exchange

    @property
    def base_url(self) -> str:
        return f"{super().base_url}/v1"
