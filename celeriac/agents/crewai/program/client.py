"""The HTTP client of a crew's models: requests to the attempt's gateway, each logged.

It is below CrewAI: whatever CrewAI does above, each request is one call. The gateway admits,
meters and charges it. A failed call ends the crew.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx

from .failures import CrewStopError
from .progress import Progress

_NO_TIMEOUT = httpx.Timeout(None).as_dict()


@dataclass(frozen=True)
class Model:
    """A model of a provider, and how to reach it."""

    provider: str
    name: str
    base_url: str
    """The attempt's gateway; `api_key` is valid there alone."""
    api_key: str = field(repr=False)
    limit_field: str = "max_tokens"
    """The field of a request that bounds its answer."""

    def __str__(self) -> str:
        return f"{self.provider}/{self.name}"


@dataclass
class CallLimit:
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


class GatewayClient(httpx.Client):
    """The HTTP client of one agent's model."""

    def __init__(self, model: Model, agent: str, limit: CallLimit, progress: Progress) -> None:
        super().__init__(trust_env=False)
        self._model = model
        self._agent = agent
        self._limit = limit
        self._progress = progress

    def send(self, request: httpx.Request, **options: Any) -> httpx.Response:
        """Send one request and read its whole answer; raises CrewStopError where it fails."""
        body = json.loads(request.read())
        # a call may wait for a person, while the crew's own limits stand still
        request.extensions = {**request.extensions, "timeout": _NO_TIMEOUT}
        self._progress.at_work(self._agent)
        self._limit.take(self._model)
        self._log_prompt(body)
        try:
            response = super().send(request, **options)
            response.read()
        except httpx.HTTPError as error:
            raise CrewStopError(
                "provider_error",
                f"{self._model} failed: {type(error).__name__}: {error}",
                retryable=True,
            ) from error
        if response.is_error:
            raise _failure(response)
        (choice,) = response.json()["choices"]
        self._progress.cut_off = choice["finish_reason"] == "length"
        text = choice["message"].get("content")
        if text:
            self._progress.message("assistant", str(text))
        if choice["finish_reason"] == "content_filter":
            raise CrewStopError(
                "content_filtered",
                f"The content filter of {self._model} stopped the answer. Change the crew's texts "
                "or the input.",
            )
        return response

    def _log_prompt(self, body: Mapping[str, Any]) -> None:
        messages = body.get("messages") or [{}]
        content = messages[-1].get("content")
        if messages[-1].get("role") == "user" and isinstance(content, str):
            self._progress.message("user", content)


def _failure(response: httpx.Response) -> CrewStopError:
    """Return the error that the gateway describes."""
    error = response.json()["error"]
    stop = CrewStopError(
        error.get("code") or "provider_error",
        error["message"],
        retryable=error.get("retryable", False),
        retry_after=error.get("retry_after"),
    )
    stop.details = error.get("details") or {}
    return stop
