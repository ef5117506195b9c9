"""One tree of errors, each with a stable code that clients may rely on.

Nothing here knows HTTP: `celeriac.api.problems` maps these classes to status codes.
"""

from collections.abc import Mapping
from typing import ClassVar

from celeriac.kit.jsontypes import JsonValue


class CeleriacError(Exception):
    """The root: every error that Celeriac raises on purpose.

    `code` is stable across releases; the message is for people and may change. `details` holds
    JSON values for programs (field names, limits, ids).
    """

    code: ClassVar[str] = "error"

    def __init__(self, message: str, **details: JsonValue) -> None:
        super().__init__(message)
        self.message = message
        self.details: Mapping[str, JsonValue] = details


class InvalidInputError(CeleriacError):
    """What was sent can't be accepted; `field` names the place and the message the cure."""

    code = "invalid_input"

    def __init__(self, message: str, *, field: str | None = None, **details: JsonValue) -> None:
        super().__init__(message, **({"field": field} if field else {}), **details)
        self.field = field


class MalformedJsonError(InvalidInputError):
    """A text is not JSON at all."""

    code = "malformed_json"


class VariablesInvalidError(InvalidInputError):
    """The variables of an execution don't fit the task's schema."""

    code = "variables_invalid"


class TemplateInvalidError(InvalidInputError):
    """A prompt template doesn't parse, uses what is forbidden, or names unknown variables."""

    code = "template_invalid"


class TemplateRenderError(InvalidInputError):
    """A prompt template failed, or grew past its limits, with the given variables."""

    code = "template_render_failed"


class SchemaInvalidError(InvalidInputError):
    """A JSON schema is not a valid schema."""

    code = "schema_invalid"


class CursorInvalidError(InvalidInputError):
    """A page cursor was not made by this endpoint."""

    code = "cursor_invalid"


class TooLargeError(InvalidInputError):
    """A value is over its documented size limit."""

    code = "too_large"


class NotFoundError(CeleriacError):
    """There is no such resource, or it is someone else's (which answers the same)."""

    code = "not_found"

    def __init__(self, resource: str, identifier: object) -> None:
        super().__init__(f"There is no {resource} {identifier}.", resource=resource)


class ConflictError(CeleriacError):
    """The present state of the resource forbids the request."""

    code = "conflict"


class TaskInactiveError(ConflictError):
    """The task is switched off and takes no new executions."""

    code = "task_inactive"


class NameTakenError(ConflictError):
    """Another resource of the same owner has this name."""

    code = "name_taken"


class IllegalTransitionError(ConflictError):
    """The state machine has no such transition (docs/states.md)."""

    code = "illegal_transition"


class IdempotencyMismatchError(CeleriacError):
    """The Idempotency-Key was used before with another request body."""

    code = "idempotency_mismatch"


class UnauthenticatedError(CeleriacError):
    """There is no key, or it is unknown, revoked or expired."""

    code = "unauthenticated"


class ForbiddenError(CeleriacError):
    """The caller is known and may not do this."""

    code = "forbidden"


class UnavailableError(CeleriacError):
    """A server that Celeriac needs doesn't answer; trying again later may help."""

    code = "unavailable"


class DatabaseUnavailableError(UnavailableError):
    """PostgreSQL doesn't answer."""

    code = "database_unavailable"


class BrokerUnavailableError(UnavailableError):
    """The message broker doesn't answer; what was accepted is stored and will be sent later."""

    code = "broker_unavailable"


class ConfigurationError(CeleriacError):
    """A setting is missing or wrong; the message names it."""

    code = "configuration_invalid"


class LeaseLostError(CeleriacError):
    """This worker no longer owns the attempt: whatever it would write is refused."""

    code = "lease_lost"


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
    """The model provider failed in a way that may pass (5xx, broken stream, connection)."""

    code = "provider_error"


class ProviderRateLimitedError(ProviderError):
    """The provider asks to slow down; `retry_after` is its wish in seconds, where it gave one."""

    code = "provider_rate_limited"

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message, retry_after=retry_after)
        self.retry_after = retry_after


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


class OutputInvalidError(RetryableError):
    """The agent's answer doesn't fit the task's output schema."""

    code = "output_invalid"


class AgentMisconfiguredError(PermanentError):
    """The agent's configuration can't be run as it is; the message names the field."""

    code = "agent_misconfigured"


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


class WorkerLostError(ExecutionError):
    """The worker died or was cut off while it ran the execution."""

    code = "worker_lost"
