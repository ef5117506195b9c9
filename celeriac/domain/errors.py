"""The tree of errors that Celeriac raises on purpose, each with a stable code.

Nothing here knows HTTP: `celeriac.api.core.problems` maps these classes to status codes.
"""

from collections.abc import Mapping, Sequence
from typing import ClassVar

from celeriac.kit.json_types import JsonValue

_SHOWN = 5


class CeleriacError(Exception):
    """The root of the tree.

    `code` is stable across releases; the message is for people and may change. `details` holds
    JSON values for programs (field names, limits, ids).
    """

    code: ClassVar[str] = "error"

    def __init__(self, message: str, **details: JsonValue) -> None:
        super().__init__(message)
        self.message = message
        self.details: Mapping[str, JsonValue] = details


class ConfigurationError(CeleriacError):
    """A setting is missing or wrong; the message names it."""

    code = "configuration_invalid"


# Requests: the input


class InvalidInputError(CeleriacError):
    """The input can't be accepted; `field` names the place and the message the cure."""

    code = "invalid_input"

    def __init__(self, message: str, *, field: str | None = None, **details: JsonValue) -> None:
        super().__init__(message, **({"field": field} if field else {}), **details)
        self.field = field


class MalformedJsonError(InvalidInputError):
    """A text is not JSON."""

    code = "malformed_json"


class VariablesInvalidError(InvalidInputError):
    """The variables of an execution don't fit the task's schema."""

    code = "variables_invalid"


class TemplateInvalidError(InvalidInputError):
    """A prompt template doesn't parse, uses what is forbidden, or names unknown variables."""

    code = "template_invalid"


class TemplateRenderError(InvalidInputError):
    """A prompt template failed, or exceeded its limits, with the given variables."""

    code = "template_render_failed"


class SchemaInvalidError(InvalidInputError):
    """A JSON schema is not valid, or not within the bounds of docs/schemas.md."""

    code = "schema_invalid"


class CursorInvalidError(InvalidInputError):
    """A page cursor was not made by this endpoint."""

    code = "cursor_invalid"


class DocumentInvalidError(InvalidInputError):
    """A document that describes agents, tasks and budgets can't be applied."""

    code = "document_invalid"

    def __init__(self, places: Sequence[tuple[str, str]]) -> None:
        """`places` are the wrong fields, such as `tasks.2.spec.prompt`, each with its fault."""
        shown = "; ".join(f"{field}: {message}" for field, message in places[:_SHOWN])
        more = f"; and {len(places) - _SHOWN} more" if len(places) > _SHOWN else ""
        super().__init__(f"Nothing was changed. {shown}{more}", field=places[0][0])
        self.places = tuple(places)


class CassetteInvalidError(InvalidInputError):
    """A text is not a cassette (docs/cassettes.md); `field` names the line."""

    code = "cassette_invalid"


class AnswerInvalidError(InvalidInputError):
    """An answer doesn't fit its question."""

    code = "answer_invalid"


class TooLargeError(InvalidInputError):
    """A value is over its documented size limit."""

    code = "too_large"


# Requests: the resource and its state


class NotFoundError(CeleriacError):
    """The resource doesn't exist, or belongs to someone else."""

    code = "not_found"

    def __init__(self, resource: str, identifier: object) -> None:
        super().__init__(f"There is no {resource} {identifier}.", resource=resource)


class FilesNotHereError(NotFoundError):
    """A resource exists, but its files are not on this machine, or it has none."""

    code = "files_not_here"

    def __init__(self, resource: str, identifier: object) -> None:
        super().__init__(resource, identifier)
        self.message = (
            f"There are no files of the {resource} {identifier} on the API's machine. Its agent "
            "made none, they were removed, or its worker keeps them elsewhere: let workers and API "
            "share one CELERIAC_HOME."
        )
        self.args = (self.message,)


class ConflictError(CeleriacError):
    """The present state of the resource forbids the request."""

    code = "conflict"


class ApprovalClosedError(ConflictError):
    """The question has another answer, has expired, or is no longer needed."""

    code = "approval_closed"


class ResultUnreadableError(ConflictError):
    """The result backend's entry for a Celery task is not a result of Celery's."""

    code = "result_unreadable"

    def __init__(self, task_id: str) -> None:
        super().__init__(
            f"What the result backend holds for the Celery task {task_id} can't be read. Delete "
            f"its key celery-task-meta-{task_id}, or wait until it expires."
        )


class TaskInactiveError(ConflictError):
    """The task is switched off and takes no new executions."""

    code = "task_inactive"


class NameTakenError(ConflictError):
    """Another resource of the same owner has this name."""

    code = "name_taken"


class SessionInUseError(ConflictError):
    """An execution uses the session, or waits to use it."""

    code = "session_in_use"


class SessionDeletedError(ConflictError):
    """The session was deleted and can't be continued."""

    code = "session_deleted"


class IdempotencyMismatchError(CeleriacError):
    """The Idempotency-Key was used before with another request body."""

    code = "idempotency_mismatch"


# Requests: the caller


class LinkInvalidError(CeleriacError):
    """An approval link was not made by this installation, or has expired."""

    code = "link_invalid"


class UnauthenticatedError(CeleriacError):
    """The API key is missing, unknown, revoked or expired."""

    code = "unauthenticated"


class ForbiddenError(CeleriacError):
    """The caller is known and may not do this."""

    code = "forbidden"


class HostRefusedError(CeleriacError):
    """The request names a host that this server doesn't serve."""

    code = "host_refused"


class RequestTimeoutError(CeleriacError):
    """A request took too long to arrive."""

    code = "request_timeout"


class TooManyRequestsError(CeleriacError):
    """The caller must wait for `retry_after` seconds."""

    code = "too_many_requests"

    def __init__(self, message: str, *, retry_after: int) -> None:
        super().__init__(message, retry_after=retry_after)
        self.retry_after = retry_after


# Servers and processes that are unavailable


class UnavailableError(CeleriacError):
    """A server that Celeriac needs doesn't answer; a later try may succeed."""

    code = "unavailable"


class BusyError(UnavailableError):
    """This process has reached its limit of such work; a later try may succeed."""

    code = "busy"


class DatabaseUnavailableError(UnavailableError):
    """PostgreSQL did not run a statement, or its answer was lost; it may be sent again.

    The class itself: the server can't be reached or can't write. Its subclasses: it could, but did
    not.
    """

    code = "database_unavailable"


class DatabaseBusyError(DatabaseUnavailableError):
    """A lock time-out, a deadlock, or a serialization failure."""

    code = "database_busy"


class DatabaseTimeoutError(DatabaseUnavailableError):
    """The statement exceeded its time limit, or an operator cancelled it."""

    code = "database_timeout"


class BrokerUnavailableError(UnavailableError):
    """The message broker doesn't answer; accepted executions are stored and sent later."""

    code = "broker_unavailable"


class LeaseLostError(CeleriacError):
    """This worker no longer holds the attempt's lease; the database refuses its writes."""

    code = "lease_lost"


# Attempts: their agent


class ExecutionError(CeleriacError):
    """An attempt failed. `retryable` says whether another attempt may succeed."""

    code = "agent_failed"
    retryable: ClassVar[bool] = True


class RetryableError(ExecutionError):
    """Raised by agents: this attempt failed, a later one may succeed."""

    code = "agent_failed"


class PermanentError(ExecutionError):
    """Raised by agents: no later attempt can succeed."""

    code = "agent_failed_permanently"
    retryable = False


class OutputInvalidError(RetryableError):
    """The agent's answer doesn't fit the task's output schema."""

    code = "output_invalid"


class OutputTruncatedError(PermanentError):
    """The token limit cut the answer off; another attempt would be cut off as well."""

    code = "output_truncated"


class ResultNotStorableError(PermanentError):
    """The database refuses the attempt's result."""

    code = "result_not_storable"


class AgentMisconfiguredError(PermanentError):
    """The agent's configuration can't be run; the message names the field."""

    code = "agent_misconfigured"


class WorkerMisconfiguredError(AgentMisconfiguredError):
    """This worker lacks what the agent needs (a module, a command); another may have it."""


class SpecificationUnreadableError(RetryableError):
    """This release can't read a stored task, agent or option: a newer one has written it."""

    code = "specification_unreadable"


class ToolServerError(RetryableError):
    """An MCP server can't be started or reached, disconnects, or violates MCP; it is named."""

    code = "tool_server_failed"


class ApprovalExpiredError(PermanentError):
    """The agent's question expired, and its policy is to fail then."""

    code = "approval_expired"


class SessionUnavailableError(PermanentError):
    """The session to continue is deleted, or belongs to another kind of agent."""

    code = "session_unavailable"


# Attempts: their model calls


class ProviderError(RetryableError):
    """The model provider failed in a way that may pass (5xx, broken stream, connection).

    `retry_after` is the wait in seconds that the provider requests, if any.
    """

    code = "provider_error"

    def __init__(
        self, message: str, *, retry_after: float | None = None, **details: JsonValue
    ) -> None:
        given: dict[str, JsonValue] = {} if retry_after is None else {"retry_after": retry_after}
        super().__init__(message, **given, **details)
        self.retry_after = retry_after


class ProviderRateLimitedError(ProviderError):
    """The provider answered that its rate limit is reached.

    `provider` and `model` name the calls that must wait, where that is known.
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
    """The agent needs more model calls than its `max_model_calls`."""

    code = "model_call_limit"


class BudgetSpentError(PermanentError):
    """A model call would exceed a budget; the message names it."""

    code = "budget_spent"


class CassetteMismatchError(PermanentError):
    """A replayed agent makes a request that its cassette has no answer to."""

    code = "cassette_mismatch"


class CassetteUnavailableError(PermanentError):
    """The cassette to replay was deleted."""

    code = "cassette_unavailable"


# Attempts: their limits and processes


class TimeLimitError(ExecutionError):
    """The attempt exceeded one of its time limits."""

    code = "time_limit"


class SoftTimeLimit(TimeLimitError):  # noqa: N818 - Celery's well-known name, part of the contract
    """Raised inside the agent at the soft limit, so that it can clean up."""

    code = "soft_time_limit"


class HardTimeLimitError(TimeLimitError):
    """The attempt was stopped by force at its hard limit."""

    code = "hard_time_limit"


class MemoryLimitError(PermanentError):
    """The child process exceeded its memory limit."""

    code = "memory_limit"


class ChildCrashedError(RetryableError):
    """The child process ended without a result: killed by a signal or by its own exit."""

    code = "child_crashed"


class ChildProtocolError(PermanentError):
    """A child process wrote an invalid message, or one that is too long."""

    code = "child_protocol"


class EventLoopEndedError(RetryableError):
    """The event loop of an attempt ended before the attempt did."""

    code = "event_loop_ended"


class WorkerLostError(ExecutionError):
    """The worker died or lost its connection while it ran the execution."""

    code = "worker_lost"
