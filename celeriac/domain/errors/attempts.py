"""Errors that end an attempt; `retryable` says whether another one may help."""

from typing import ClassVar

from celeriac.domain.errors.base import CeleriacError
from celeriac.kit.json_types import JsonValue


class ExecutionError(CeleriacError):
    """A run of an agent failed. `retryable` says whether another attempt may help."""

    code = "agent_failed"
    retryable: ClassVar[bool] = True


class RetryableError(ExecutionError):
    """Raised by agents: this attempt failed, a later one may succeed."""

    code = "agent_failed"


class PermanentError(ExecutionError):
    """Raised by agents: no later attempt can succeed."""

    code = "agent_failed_permanently"
    retryable = False


class ProviderError(RetryableError):
    """The model provider failed in a way that may pass (5xx, broken stream, connection).

    `retry_after` is the wait in seconds that it asks for, where it gave one.
    """

    code = "provider_error"

    def __init__(
        self, message: str, *, retry_after: float | None = None, **details: JsonValue
    ) -> None:
        given: dict[str, JsonValue] = {} if retry_after is None else {"retry_after": retry_after}
        super().__init__(message, **given, **details)
        self.retry_after = retry_after


class ProviderRateLimitedError(ProviderError):
    """The provider asks to slow down; `retry_after` is its wish in seconds, where it gave one.

    `provider` and `model` say which calls are to wait, where that is known.
    """

    code = "provider_rate_limited"

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


class ProviderRefusedError(PermanentError):
    """The provider refuses the request itself (wrong key, unknown model, bad request)."""

    code = "provider_refused"


class ContentFilteredError(PermanentError):
    """The provider's content filter stopped the answer."""

    code = "content_filtered"


class ModelCallLimitError(PermanentError):
    """The agent would need more model calls than its `max_model_calls`."""

    code = "model_call_limit"


class BudgetSpentError(PermanentError):
    """A model call would go beyond a budget; the message names it."""

    code = "budget_spent"


class ApprovalExpiredError(PermanentError):
    """Nobody answered the agent's question in time, and its policy is to fail then."""

    code = "approval_expired"


class SessionUnavailableError(PermanentError):
    """The session to go on with is gone, or belongs to another kind of agent."""

    code = "session_unavailable"


class CassetteMismatchError(PermanentError):
    """A replayed agent makes a request that its cassette has no answer to."""

    code = "cassette_mismatch"


class CassetteUnavailableError(PermanentError):
    """The cassette to replay was deleted."""

    code = "cassette_unavailable"


class ToolServerError(RetryableError):
    """An MCP server can't be started or reached, broke off, or speaks no MCP; it is named."""

    code = "tool_server_failed"


class OutputInvalidError(RetryableError):
    """The agent's answer doesn't fit the task's output schema."""

    code = "output_invalid"


class OutputTruncatedError(PermanentError):
    """The token limit cut the answer off; another attempt would be cut off as well."""

    code = "output_truncated"


class AgentMisconfiguredError(PermanentError):
    """The agent's configuration can't be run as it is; the message names the field."""

    code = "agent_misconfigured"


class WorkerMisconfiguredError(AgentMisconfiguredError):
    """This worker lacks what the agent needs (a module, a command); another may have it."""


class SpecificationUnreadableError(RetryableError):
    """This release can't read a stored task, agent or option: a newer one has written it."""

    code = "specification_unreadable"


class ResultNotStorableError(PermanentError):
    """The database refuses what an attempt came to."""

    code = "result_not_storable"


class TimeLimitError(ExecutionError):
    """The attempt ran past one of its time limits."""

    code = "time_limit"


class SoftTimeLimit(TimeLimitError):  # noqa: N818 - Celery's well-known name, part of the contract
    """Raised inside the agent when the soft limit passes, so that it can wind up."""

    code = "soft_time_limit"


class HardTimeLimitError(TimeLimitError):
    """The attempt was stopped by force at its hard limit."""

    code = "hard_time_limit"


class MemoryLimitError(PermanentError):
    """The child process asked for more memory than its limit."""

    code = "memory_limit"


class ChildCrashedError(RetryableError):
    """The child process ended without a result: killed by a signal or by its own exit."""

    code = "child_crashed"


class ChildProtocolError(PermanentError):
    """A child process wrote what is no message of its protocol, or one that is too long."""

    code = "child_protocol"


class EventLoopEndedError(RetryableError):
    """The event loop that an attempt ran on ended before the attempt did."""

    code = "event_loop_ended"


class WorkerLostError(ExecutionError):
    """The worker died or was cut off while it ran the execution."""

    code = "worker_lost"
