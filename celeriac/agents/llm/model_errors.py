"""From the errors of the model library to ours: what is permanent, what may pass, what to check."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from pydantic_ai import exceptions as ai

from celeriac.agents.gateway.completions import AnswerError, message_of
from celeriac.agents.models import ModelRef
from celeriac.domain.errors import (
    ContentFilteredError,
    ExecutionError,
    ModelCallLimitError,
    OutputInvalidError,
    ProviderError,
    ProviderRateLimitedError,
    ProviderRefusedError,
)
from celeriac.kit.text import clip

_SHOWN = 500
_PASSING = frozenset({408, 409, 425})
"""Client errors that another attempt may not meet: timeout, lock, too early."""
_SERVER_ERRORS = 500
_BY_STATUS: Mapping[int, type[ai.ModelAPIError]] = {
    400: ai.ModelRequestRejectedError,
    401: ai.ModelAuthenticationError,
    402: ai.ModelQuotaExceededError,
    403: ai.ModelAuthenticationError,
    404: ai.ModelNotFoundError,
    422: ai.ModelRequestRejectedError,
    429: ai.ModelRateLimitError,
}
_ADVICE: Mapping[type[ai.ModelAPIError], str] = {
    ai.ModelQuotaExceededError: (
        "Check the credits and spending limits of the account at {provider!r}."
    ),
    ai.ModelAuthenticationError: (
        "Check the API key of the provider {provider!r} and what it may use."
    ),
    ai.ModelNotFoundError: (
        "Check the model name {model!r} and the base URL of the provider {provider!r}."
    ),
    ai.ModelContextWindowExceededError: (
        "Shorten the prompt, its variables or the instructions, or use another model."
    ),
    ai.ModelRequestRejectedError: (
        "Check the agent's settings and the task's output schema against the model."
    ),
}
"""What to check where another attempt would fail the same way; the first that fits counts."""


@contextmanager
def translated(choice: ModelRef, *, max_model_calls: int) -> Iterator[None]:
    """Raise what the library raises inside the block as one of our `ExecutionError`s."""
    try:
        yield
    except ai.ModelHTTPError as error:
        # Not chained: a traceback would show the body as it is, and some servers repeat the key.
        raise _of_provider(error, choice) from None
    except ai.ModelAPIError as error:
        raise _of_provider(error, choice) from error
    except AnswerError as error:
        raise _of_answer(error, choice) from None
    except ai.UsageLimitExceeded as error:
        raise ModelCallLimitError(
            f"The agent would need more calls of {choice} than max_model_calls={max_model_calls}. "
            "Raise the limit, or make the task's prompt and output schema simpler.",
            max_model_calls=max_model_calls,
        ) from error
    except ai.ContentFilterError as error:
        raise content_filtered(choice) from error
    except ai.UnexpectedModelBehavior as error:
        raise OutputInvalidError(
            f"{choice} gave no usable answer: {clip(error.message, _SHOWN)}"
        ) from error


def content_filtered(choice: ModelRef) -> ContentFilteredError:
    """Return the error for an answer that the provider's filter has cut off or kept back."""
    return ContentFilteredError(
        f"The content filter of {choice} stopped the answer. Change the prompt or the input."
    )


def _of_answer(error: AnswerError, choice: ModelRef) -> ExecutionError:
    """Return the error for an answer that is none; some servers put refusals into a success."""
    said = _without_key(clip(error.message, _SHOWN), choice)
    if error.status is not None:
        kind = _BY_STATUS.get(error.status, ai.ModelHTTPError)
        return _refused(choice, f"HTTP {error.status}, {said}", kind, error.status)
    return ProviderError(f"{choice} failed: {said}")


def _of_provider(error: ai.ModelAPIError, choice: ModelRef) -> ExecutionError:
    said = _without_key(_said(error), choice)
    status = error.status_code if isinstance(error, ai.ModelHTTPError) else None
    return _refused(choice, said, type(error), status, error.retry_after)


def _refused(
    choice: ModelRef,
    said: str,
    kind: type[ai.ModelAPIError],
    status: int | None,
    retry_after: float | None = None,
) -> ExecutionError:
    """Return the error for a refusal of the library's `kind`."""
    if issubclass(kind, ai.ModelRateLimitError):
        return ProviderRateLimitedError(
            f"{choice} asks to slow down: {said}",
            retry_after=retry_after,
            provider=choice.provider.name,
            model=choice.model,
        )
    advice = next((text for each, text in _ADVICE.items() if issubclass(kind, each)), None)
    if advice is not None or _is_final(status):
        advice = advice or "Check the agent and the provider."
        named = advice.format(provider=choice.provider.name, model=choice.model)
        return ProviderRefusedError(f"{choice} refuses the request: {said}. {named}", status=status)
    return ProviderError(f"{choice} failed: {said}", retry_after=retry_after, status=status)


def _is_final(status: int | None) -> bool:
    return status is not None and status < _SERVER_ERRORS and status not in _PASSING


def _said(error: ai.ModelAPIError) -> str:
    """Return the provider's own words, with the HTTP status where there is one."""
    message = message_of(error.body)
    if isinstance(error, ai.ModelHTTPError):
        return f"HTTP {error.status_code}" + (f", {clip(message, _SHOWN)}" if message else "")
    return clip(message or error.message, _SHOWN)


def _without_key(text: str, choice: ModelRef) -> str:
    key = choice.provider.api_key
    return text.replace(key, "***") if key else text
