"""Why a model call failed, and the error of ours that it becomes. The one map for all runners."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from celeriac.agents.gateway.completions import AnswerError, message_of
from celeriac.agents.gateway.waiting import wait_of
from celeriac.agents.models import ModelRef
from celeriac.domain.errors import (
    ContentFilteredError,
    ExecutionError,
    ProviderError,
    ProviderRateLimitedError,
    ProviderRefusedError,
)
from celeriac.kit.json_types import loads
from celeriac.kit.text import clip

SHOWN = 500
"""Characters of a provider's message that an error shows."""

SLOW_DOWN = 429
_SERVER_ERRORS = 500
_NO_CREDIT = 402
_TEMPORARY = frozenset({408, 409, 425})
"""Client errors that a later attempt may not meet: timeout, lock, too early."""

_QUOTA_CODES = (
    b"insufficient_quota",
    b"billing_hard_limit_reached",
    b"credit_balance_exhausted",
    b"organization_spend_limit_exceeded",
    b"project_spend_limit_exceeded",
    b"organization_usage_limit_exceeded",
)
"""OpenAI's codes for an account without credit. They come with 429, but waiting does not help."""

_TOO_LONG = (
    b"context_length_exceeded",
    b"maximum context length",
    b"reduce the length of the messages",
)
"""How a prompt is refused that exceeds the context window: OpenAI's code, others' messages."""

_CHECK_ACCESS = "Check the API key of the provider {provider!r} and what it may use."
_CHECK_REQUEST = "Check the agent's settings and the task's output schema against the model."
_ADVICE: Mapping[int, str] = {
    400: _CHECK_REQUEST,
    401: _CHECK_ACCESS,
    402: "Check the credits and spending limits of the account at {provider!r}.",
    403: _CHECK_ACCESS,
    404: "Check the model name {model!r} and the base URL of the provider {provider!r}.",
    422: _CHECK_REQUEST,
}
_SHORTEN = "Shorten the prompt, its variables or the instructions, or use another model."
_OTHER_ADVICE = "Check the agent and the provider."


@dataclass(frozen=True, slots=True)
class CallFailure:
    """Why a call failed. Without a `status` there was no answer, or half of one."""

    status: int | None
    message: str
    """The provider's message, without its key."""
    retry_after: float | None = None
    """Seconds that the provider asks to wait."""
    no_credit: bool = False
    too_long: bool = False
    """Whether the prompt exceeds the model's context window."""

    @property
    def may_pass(self) -> bool:
        """Whether the same request may succeed later."""
        if self.status is None:
            return True
        if self.no_credit:
            return False
        return (
            self.status >= _SERVER_ERRORS or self.status in _TEMPORARY or self.status == SLOW_DOWN
        )


@dataclass(frozen=True, slots=True)
class FailureSource:
    """What a failure is called in its error: the model's name, and advice by HTTP status."""

    choice: ModelRef
    name: str = ""
    """Stands in the place of `provider/model` where it is not empty."""
    advice: Mapping[int, str] = field(default_factory=lambda: _ADVICE)

    def __str__(self) -> str:
        return self.name or str(self.choice)


def failure_of_response(
    status: int, headers: Mapping[str, str], body: bytes, *, key: str | None
) -> CallFailure:
    """Return the failure of a call that was answered with the error `status`."""
    try:
        value = loads(body)
    except ValueError:
        value = body.decode(errors="replace")
    lowered = body.lower()
    return CallFailure(
        status,
        without_key(message_of(value), key),
        retry_after=wait_of(headers, body),
        no_credit=status == _NO_CREDIT or any(code in body for code in _QUOTA_CODES),
        too_long=any(text in lowered for text in _TOO_LONG),
    )


def failure_of_exception(error: Exception, *, key: str | None) -> CallFailure:
    """Return the failure of a call whose answer can't be used, or whose connection failed."""
    if isinstance(error, AnswerError):
        return CallFailure(error.status, without_key(error.message, key))
    reason = f"{type(error).__name__} {error}".rstrip()
    return CallFailure(None, without_key(f"Connection error: {reason}", key))


def error_of(failure: CallFailure, source: FailureSource) -> ExecutionError:
    """Return the error that an attempt ends with."""
    message, status = clip(failure.message, SHOWN), failure.status
    if status is None:
        return ProviderError(f"{source} failed: {message}", retry_after=failure.retry_after)
    said = f"HTTP {status}" + (f", {message}" if message else "")
    choice = source.choice
    if status == SLOW_DOWN and not failure.no_credit:
        return ProviderRateLimitedError(
            f"{source} asks to slow down: {said}",
            retry_after=failure.retry_after,
            provider=choice.provider.name,
            model=choice.model,
        )
    if failure.may_pass:
        return ProviderError(
            f"{source} failed: {said}", retry_after=failure.retry_after, status=status
        )
    advice = _advice(failure, source).format(provider=choice.provider.name, model=choice.model)
    return ProviderRefusedError(f"{source} refuses the request: {said}. {advice}", status=status)


def content_filtered(choice: ModelRef) -> ContentFilteredError:
    """Return the error for an answer that the provider's filter has stopped."""
    return ContentFilteredError(
        f"The content filter of {choice} stopped the answer. Change the prompt or the input."
    )


def without_key(text: str, key: str | None) -> str:
    """Return `text` without the key, which some servers repeat."""
    return text.replace(key, "***") if key else text


def _advice(failure: CallFailure, source: FailureSource) -> str:
    if failure.no_credit:
        return source.advice.get(_NO_CREDIT, _ADVICE[_NO_CREDIT])
    if failure.too_long:
        return _SHORTEN
    return source.advice.get(failure.status or 0, _OTHER_ADVICE)
