"""Every request to a model, at the door: asked leave for, counted, timed, its failures told apart.

It sits below CrewAI, in the HTTP client: whatever CrewAI does above, each request is one row.
"""

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx

from celeriac.agents.gateway.completions import (
    CONTENT_FILTER,
    LENGTH,
    AnswerError,
    Usage,
    completion_of,
    message_of,
    shown,
    usage_of,
)
from celeriac.agents.gateway.waiting import wait_of

from .channel import Channel
from .failures import CrewStopError, clip
from .progress import Progress

SHOWN = 500
UNFINISHED = "unfinished"
_PASSING = frozenset({408, 409, 425})
_TOO_MANY = 429
_UNAUTHORIZED = frozenset({401, 403})
_NOT_FOUND = 404
_SERVER_ERRORS = 500
_CHARACTERS_PER_TOKEN = 3
"""Fewer than in most texts, so that an estimate is rather too high."""
_USUAL_OUTPUT = 4_096
_LIMITS = ("max_completion_tokens", "max_tokens")
_OPENAI_HOST = "api.openai.com"


def limit_name(base_url: str) -> str:
    """Return the field of a request that bounds its answer: OpenAI has given it another name."""
    return _LIMITS[0] if _OPENAI_HOST in base_url else _LIMITS[1]


@dataclass(frozen=True)
class Model:
    """A model of a provider, as the worker describes it."""

    provider: str
    name: str
    base_url: str
    api_key: str | None = field(repr=False)

    def __str__(self) -> str:
        return f"{self.provider}/{self.name}"


@dataclass
class Allowance:
    """How many requests the whole crew may still make."""

    limit: int
    used: int = 0

    def take(self, model: Model) -> None:
        """Count one more request; raises CrewStopError where there is none left."""
        if self.used >= self.limit:
            raise CrewStopError(
                "model_call_limit",
                f"The crew would need more calls than max_model_calls={self.limit}; the next one "
                f"is of {model}. Raise the limit, or make the tasks simpler.",
                max_model_calls=self.limit,
            )
        self.used += 1


class MeteredClient(httpx.Client):
    """The HTTP client of one agent's model."""

    def __init__(
        self, model: Model, agent: str, allowance: Allowance, channel: Channel, progress: Progress
    ) -> None:
        super().__init__(follow_redirects=True)
        self._model = model
        self._agent = agent
        self._allowance = allowance
        self._channel = channel
        self._progress = progress

    def send(self, request: httpx.Request, **options: Any) -> httpx.Response:
        """Send one request and read its whole answer; raises CrewStopError where it fails."""
        body = json.loads(request.read())
        self._progress.at_work(self._agent)
        self._allowance.take(self._model)
        admission, clip = self._admit(body)
        if clip is not None:
            request = self._clipped(request, body, clip)
        self._log_prompt(body)
        began = time.monotonic()
        try:
            response = super().send(request, **options)
            response.read()
        except httpx.HTTPError as error:
            self._release(admission)
            raise self._failed(f"{type(error).__name__}: {error}") from error
        if response.is_error:
            self._release(admission)
            raise self._refused(response.status_code, response.content, response.headers)
        answer = self._answer(admission, response, began)
        (choice,) = answer["choices"]
        self._progress.cut_off = choice["finish_reason"] == LENGTH
        text = choice["message"].get("content")
        if text:
            self._progress.message("assistant", str(text))
        if choice["finish_reason"] == CONTENT_FILTER:
            raise CrewStopError(
                "content_filtered",
                f"The content filter of {self._model} stopped the answer. Change the crew's texts "
                "or the input.",
            )
        # CrewAI's client reads OpenAI's own form only
        return httpx.Response(response.status_code, json=answer, request=request)

    def _answer(self, admission: str, response: httpx.Response, began: float) -> dict[str, Any]:
        """Return a whole completion, charged; raises CrewStopError for what is none."""
        try:
            answer = completion_of(_parsed(response))
        except AnswerError as error:
            usage = _usage_of_broken(response)
            if usage:
                self._charge(admission, usage, UNFINISHED, began)
            else:
                self._release(admission)
            if error.status is not None:
                raise self._refused(error.status, response.content, {}) from error
            raise self._failed(clip(error.message, SHOWN)) from error
        usage = usage_of(answer)
        self._charge(admission, usage, answer["choices"][0]["finish_reason"], began)
        return answer

    def _admit(self, body: Mapping[str, Any]) -> tuple[str, int | None]:
        """Wait for leave; return its name, and the limit that a budget sets for the answer."""
        messages = body.get("messages", ())
        told = json.dumps(messages, ensure_ascii=False)
        told += json.dumps(body.get("tools", ()), ensure_ascii=False)
        wanted = next((body[name] for name in _LIMITS if body.get(name)), _USUAL_OUTPUT)
        reply = self._channel.ask(
            {
                "type": "admit",
                "provider": self._model.provider,
                "model": self._model.name,
                "input_tokens": len(told) // _CHARACTERS_PER_TOKEN + 1,
                "output_tokens": int(wanted),
                "least_input_tokens": sum(_words(each.get("content")) for each in messages),
            }
        )
        return str(reply["id"]), reply.get("output_tokens")

    def _clipped(
        self, request: httpx.Request, body: Mapping[str, Any], limit: int
    ) -> httpx.Request:
        name = next((each for each in _LIMITS if body.get(each)), limit_name(self._model.base_url))
        headers = [each for each in request.headers.raw if each[0].lower() != b"content-length"]
        return httpx.Request(
            request.method,
            request.url,
            headers=headers,
            content=json.dumps({**body, name: limit}).encode(),
            extensions=request.extensions,
        )

    def _release(self, admission: str) -> None:
        self._channel.send({"type": "release", "admission": admission})

    def _charge(self, admission: str, usage: Usage, finish_reason: str, began: float) -> None:
        self._channel.send(
            {
                "type": "usage",
                "admission": admission,
                "provider": self._model.provider,
                "model": self._model.name,
                "input_tokens": usage.prompt,
                "output_tokens": usage.completion,
                "cached_tokens": usage.cached,
                "latency_ms": round((time.monotonic() - began) * 1000),
                "finish_reason": finish_reason,
            }
        )

    def _log_prompt(self, body: Mapping[str, Any]) -> None:
        messages = body.get("messages") or [{}]
        content = messages[-1].get("content")
        if messages[-1].get("role") == "user" and isinstance(content, str):
            self._progress.message("user", content)

    def _failed(self, said: str) -> CrewStopError:
        return CrewStopError(
            "provider_error", f"{self._model} failed: {self._without_key(said)}", retryable=True
        )

    def _refused(self, status: int, body: bytes, headers: Mapping[str, str]) -> CrewStopError:
        said = f"HTTP {status}"
        message = self._without_key(clip(message_of(_json(body)), SHOWN))
        said += f", {message}" if message else ""
        quota = b"insufficient_quota" in body
        wait = wait_of(headers, body)
        if status == _TOO_MANY and not quota:
            return CrewStopError(
                "provider_rate_limited",
                f"{self._model} asks to slow down: {said}",
                retryable=True,
                retry_after=wait,
            )
        if status >= _SERVER_ERRORS or status in _PASSING:
            return CrewStopError(
                "provider_error",
                f"{self._model} failed: {said}",
                retryable=True,
                retry_after=wait,
                status=status,
            )
        return CrewStopError(
            "provider_refused",
            f"{self._model} refuses the request: {said}. {self._advice(status, quota=quota)}",
            status=status,
        )

    def _advice(self, status: int, *, quota: bool) -> str:
        provider = self._model.provider
        if quota:
            return f"Check the credits and spending limits of the account at {provider!r}."
        if status in _UNAUTHORIZED:
            return f"Check the API key of the provider {provider!r} and what it may use."
        if status == _NOT_FOUND:
            return (
                f"Check the model name {self._model.name!r} and the base URL of the provider "
                f"{provider!r}."
            )
        return "Check the agent's settings and its texts against what the model can take."

    def _without_key(self, text: str) -> str:
        key = self._model.api_key
        return text.replace(key, "***") if key else text


def _words(content: object) -> int:
    """Return the fewest tokens that a message's text can have: one for each word."""
    return len(content.split()) if isinstance(content, str) else 0


def _parsed(response: httpx.Response) -> Any:
    """Return the body of an answer; raises AnswerError where it is no JSON."""
    try:
        return json.loads(response.content)
    except ValueError:
        text = response.text.strip()
        if not text:
            raise AnswerError("it sent an empty answer") from None
        raise AnswerError(f"it sent what holds no answer: {shown(text)}") from None


def _usage_of_broken(response: httpx.Response) -> Usage:
    body = _json(response.content)
    return usage_of(body) if isinstance(body, dict) else Usage()


def _json(body: bytes) -> Any:
    """Return a body; what is no JSON as a text."""
    try:
        return json.loads(body)
    except ValueError:
        return body.decode(errors="replace")
