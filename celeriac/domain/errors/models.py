"""Errors of the model calls of an attempt."""

from celeriac.domain.errors.attempts import PermanentError, RetryableError
from celeriac.kit.json_types import JsonValue


class ProviderError(RetryableError, code="provider_error"):
    """The model provider failed in a way that may pass (5xx, broken stream, connection).

    `retry_after` is the wait in seconds that the provider requests, if any.
    """

    def __init__(
        self, message: str, *, retry_after: float | None = None, **details: JsonValue
    ) -> None:
        given: dict[str, JsonValue] = {} if retry_after is None else {"retry_after": retry_after}
        super().__init__(message, **given, **details)
        self.retry_after = retry_after


class ProviderRateLimitedError(ProviderError, code="provider_rate_limited"):
    """The provider answered that its rate limit is reached.

    `provider` and `model` name the calls that must wait, where that is known.
    """

    def __init__(
        self,
        message: str,
        *,
        retry_after: float | None = None,
        provider: str | None = None,
        model: str | None = None,
    ) -> None:
        super().__init__(message, retry_after=retry_after)
        self.provider = provider
        self.model = model


class ProviderRefusedError(PermanentError, code="provider_refused"):
    """The provider refuses the request itself (wrong key, unknown model, bad request)."""


class ContentFilteredError(PermanentError, code="content_filtered"):
    """The provider's content filter stopped the answer."""


class ModelCallLimitError(PermanentError, code="model_call_limit"):
    """The agent needs more model calls than its `max_model_calls`."""


class BudgetSpentError(PermanentError, code="budget_spent"):
    """A model call would exceed a budget; the message names it."""


class CassetteMismatchError(PermanentError, code="cassette_mismatch"):
    """A replayed agent makes a request that its cassette has no answer to."""


class CassetteUnavailableError(PermanentError, code="cassette_unavailable"):
    """The cassette to replay was deleted."""
