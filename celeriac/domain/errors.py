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

    def __init_subclass__(cls, *, code: str | None = None) -> None:
        """Set the code of a class; a class without one has that of its parent."""
        super().__init_subclass__()
        if code is not None:
            cls.code = code

    def __init__(self, message: str, **details: JsonValue) -> None:
        super().__init__(message)
        self.message = message
        self.details: Mapping[str, JsonValue] = details


class ConfigurationError(CeleriacError, code="configuration_invalid"):
    """A setting is missing or wrong; the message names it."""


# Requests: the input


class InvalidInputError(CeleriacError, code="invalid_input"):
    """The input can't be accepted; `field` names the place and the message the cure."""

    def __init__(self, message: str, *, field: str | None = None, **details: JsonValue) -> None:
        super().__init__(message, **({"field": field} if field else {}), **details)
        self.field = field


class MalformedJsonError(InvalidInputError, code="malformed_json"):
    """A text is not JSON."""


class VariablesInvalidError(InvalidInputError, code="variables_invalid"):
    """The variables of an execution don't fit the task's schema."""


class InputInvalidError(InvalidInputError, code="input_invalid"):
    """The input doesn't fit the schema of the workflow."""


class TemplateInvalidError(InvalidInputError, code="template_invalid"):
    """A prompt template doesn't parse, uses what is forbidden, or names unknown variables."""


class TemplateRenderError(InvalidInputError, code="template_render_failed"):
    """A prompt template failed, or exceeded its limits, with the given variables."""


class SchemaInvalidError(InvalidInputError, code="schema_invalid"):
    """A JSON schema is not valid, or not within the bounds of docs/schemas.md."""


class CursorInvalidError(InvalidInputError, code="cursor_invalid"):
    """A page cursor was not made by this endpoint."""


class DocumentInvalidError(InvalidInputError, code="document_invalid"):
    """A document of agents, tasks and what starts them can't be applied."""

    def __init__(self, places: Sequence[tuple[str, str]]) -> None:
        """`places` are the wrong fields, such as `tasks.2.spec.prompt`, each with its fault."""
        shown = "; ".join(f"{field}: {message}" for field, message in places[:_SHOWN])
        more = f"; and {len(places) - _SHOWN} more" if len(places) > _SHOWN else ""
        super().__init__(f"Nothing was changed. {shown}{more}", field=places[0][0])
        self.places = tuple(places)


class WorkflowInvalidError(InvalidInputError, code="workflow_invalid"):
    """A document is not a workflow that can be run (docs/workflows.md)."""

    def __init__(self, places: Sequence[tuple[str, str]]) -> None:
        """`places` are the wrong fields, such as `steps.draft.when`, each with its fault."""
        shown = "; ".join(f"{field}: {message}" for field, message in places[:_SHOWN])
        more = f"; and {len(places) - _SHOWN} more" if len(places) > _SHOWN else ""
        super().__init__(f"The workflow can't be run. {shown}{more}", field=places[0][0])
        self.places = tuple(places)


class CassetteInvalidError(InvalidInputError, code="cassette_invalid"):
    """A text is not a cassette (docs/cassettes.md); `field` names the line."""


class AnswerInvalidError(InvalidInputError, code="answer_invalid"):
    """An answer doesn't fit its question."""


class TooLargeError(InvalidInputError, code="too_large"):
    """A value is over its documented size limit."""


# Requests: the resource and its state


class NotFoundError(CeleriacError, code="not_found"):
    """The resource doesn't exist, or belongs to someone else."""

    def __init__(self, resource: str, identifier: object) -> None:
        super().__init__(f"There is no {resource} {identifier}.", resource=resource)


class FilesNotHereError(NotFoundError, code="files_not_here"):
    """A resource exists, but no files of it are saved, or the object store has lost one."""

    def __init__(self, resource: str, identifier: object) -> None:
        super().__init__(resource, identifier)
        self.message = (
            f"No files of the {resource} {identifier} are saved. Its agent made none, its first "
            "attempt has not ended yet, or they were removed."
        )
        self.args = (self.message,)


class LogsNotHereError(NotFoundError, code="logs_not_here"):
    """An execution exists, but its log file is not on this machine; `why` is a clause."""

    def __init__(self, execution_id: object, why: str) -> None:
        super().__init__("execution", execution_id)
        self.message = (
            f"There is no log file of the execution {execution_id} on the API's machine: {why}. "
            "What its agent logged is among its events (type log), wherever it ran."
        )
        self.args = (self.message,)


class ConflictError(CeleriacError, code="conflict"):
    """The present state of the resource forbids the request."""


class LimitReachedError(ConflictError, code="limit_reached"):
    """A limit lets no further run begin, and none wait; `run_id` has the slot."""


class HookPausedError(ConflictError, code="hook_paused"):
    """The hook is paused and starts nothing."""


class ApprovalClosedError(ConflictError, code="approval_closed"):
    """The question has another answer, has expired, or is no longer needed."""


class ResultUnreadableError(ConflictError, code="result_unreadable"):
    """The result backend's entry for a Celery task is not a result of Celery's."""

    def __init__(self, task_id: str) -> None:
        super().__init__(
            f"What the result backend holds for the Celery task {task_id} can't be read. Delete "
            f"its key celery-task-meta-{task_id}, or wait until it expires."
        )


class TaskInactiveError(ConflictError, code="task_inactive"):
    """The task is switched off and takes no new executions."""


class NameTakenError(ConflictError, code="name_taken"):
    """Another resource of the same owner has this name."""


class SessionInUseError(ConflictError, code="session_in_use"):
    """An execution uses the session, or waits to use it."""


class SessionDeletedError(ConflictError, code="session_deleted"):
    """The session was deleted and can't be continued."""


class IdempotencyMismatchError(CeleriacError, code="idempotency_mismatch"):
    """The Idempotency-Key was used before with another request body."""


# Requests: the caller


class InvitationInvalidError(CeleriacError, code="invitation_invalid"):
    """The token of an invitation is wrong, was used, was revoked or has expired; all the same."""


class LinkInvalidError(CeleriacError, code="link_invalid"):
    """An approval link was not made by this installation, or has expired."""


class UnauthenticatedError(CeleriacError, code="unauthenticated"):
    """The API key is missing, unknown, revoked or expired."""


class WorkspaceDeniedError(UnauthenticatedError):
    """The API key is good, but not in the workspace that the request names."""


class ForbiddenError(CeleriacError, code="forbidden"):
    """The caller is known and may not do this."""


class HookRefusedError(UnauthenticatedError, code="hook_refused"):
    """There is no such hook, or the request to it is not genuine or not new; all the same."""


class HookForbiddenError(ForbiddenError, code="hook_forbidden"):
    """The maker of a hook may start nothing any more."""

    def __init__(self, why: str) -> None:
        """`why` is for the admins of the workspace; the sender is not told."""
        super().__init__("The hook may start nothing at present; its deliveries say why.")
        self.why = why


class HostRefusedError(CeleriacError, code="host_refused"):
    """The request names a host that this server doesn't serve."""


class RequestTimeoutError(CeleriacError, code="request_timeout"):
    """A request took too long to arrive."""


class TooManyRequestsError(CeleriacError, code="too_many_requests"):
    """The caller must wait for `retry_after` seconds."""

    def __init__(self, message: str, *, retry_after: int) -> None:
        super().__init__(message, retry_after=retry_after)
        self.retry_after = retry_after


# Servers and processes that are unavailable


class UnavailableError(CeleriacError, code="unavailable"):
    """A server that Celeriac needs doesn't answer; a later try may succeed."""


class BusyError(UnavailableError, code="busy"):
    """This process has reached its limit of such work; a later try may succeed."""


class DatabaseUnavailableError(UnavailableError, code="database_unavailable"):
    """PostgreSQL did not run a statement, or its answer was lost; it may be sent again.

    The class itself: the server can't be reached or can't write. Its subclasses: it could, but did
    not.
    """


class DatabaseBusyError(DatabaseUnavailableError, code="database_busy"):
    """A lock time-out, a deadlock, or a serialization failure."""


class DatabaseTimeoutError(DatabaseUnavailableError, code="database_timeout"):
    """The statement exceeded its time limit, or an operator cancelled it."""


class ObjectStoreError(UnavailableError, code="object_store_unavailable"):
    """The object store can't be reached, or refuses what it is asked."""


class ObjectMissingError(CeleriacError, code="object_missing"):
    """The object store does not have an object that it should have."""


class BrokerUnavailableError(UnavailableError, code="broker_unavailable"):
    """The message broker doesn't answer; accepted executions are stored and sent later."""


class PartitionsError(DatabaseUnavailableError, code="database_partitions"):
    """Somebody has attached a partition beside which Celeriac can't make its own; it is named."""


class LeaseExpiredError(DatabaseUnavailableError):
    """This worker process has no valid lease now, so it can't claim; its heartbeat renews it."""


class LeaseLostError(CeleriacError, code="lease_lost"):
    """This worker no longer holds the attempt's lease; the database refuses its writes."""


# Attempts: their agent


class ExecutionError(CeleriacError, code="agent_failed"):
    """An attempt failed. `retryable` says whether another attempt may succeed."""

    retryable: ClassVar[bool] = True


class RetryableError(ExecutionError):
    """Raised by agents: this attempt failed, a later one may succeed."""


class PermanentError(ExecutionError, code="agent_failed_permanently"):
    """Raised by agents: no later attempt can succeed."""

    retryable = False


class OutputInvalidError(RetryableError, code="output_invalid"):
    """The agent's answer doesn't fit the task's output schema."""


class OutputTruncatedError(PermanentError, code="output_truncated"):
    """The token limit cut the answer off; another attempt would be cut off as well."""


class ResultNotStorableError(PermanentError, code="result_not_storable"):
    """The database refuses the attempt's result."""


class AgentMisconfiguredError(PermanentError, code="agent_misconfigured"):
    """The agent's configuration can't be run; the message names the field."""


class WorkerMisconfiguredError(AgentMisconfiguredError):
    """This worker lacks what the agent needs (a module, a command); another may have it."""


class SecretUnavailableError(RetryableError, code="secret_unavailable"):
    """A secret of the agent can't be read now; the message names it, and never its value."""


class SpecificationUnreadableError(RetryableError, code="specification_unreadable"):
    """This release can't read a stored task, agent or option: a newer one has written it."""


class ToolServerError(RetryableError, code="tool_server_failed"):
    """An MCP server can't be started or reached, disconnects, or violates MCP; it is named."""


class RepositoryUnavailableError(RetryableError, code="repository_unavailable"):
    """A repository can't be fetched, or its checkout can't be made."""


class RepositoryRefusedError(PermanentError, code="repository_refused"):
    """A repository, its ref or its path can't be used; another attempt changes nothing."""


class SetupFailedError(RetryableError, code="setup_failed"):
    """A command that prepares the checkout has failed."""


class VerifyFailedError(PermanentError, code="verify_failed"):
    """A check of the agent's work still fails after the agent was sent back."""


class StepsChangedError(PermanentError, code="steps_changed"):
    """The agent's code calls other steps than those that the execution has stored."""


class TreeLimitError(PermanentError, code="tree_limit"):
    """A tree of executions has as many generations or executions as it may have."""


class ResultsTooLargeError(PermanentError, code="results_too_large"):
    """The results of several executions are over the limit for what is read at once."""


class StepFailedError(ExecutionError, code="step_failed"):
    """A step failed; `code` and `retryable` are those of its last error."""

    def __init__(
        self,
        message: str,
        *,
        step: str,
        code: str = "step_failed",
        retryable: bool = True,
        error_type: str = "StepFailedError",
    ) -> None:
        super().__init__(message, step=step, type=error_type)
        self.step = step
        self.code = code  # type: ignore[misc]
        self.retryable = retryable  # type: ignore[misc]
        self.error_type = error_type


class ChildFailedError(PermanentError, code="child_failed"):
    """An execution that the agent started failed or was cancelled. It had retries of its own."""


class ExpressionError(PermanentError, code="expression_error"):
    """An expression of a workflow has no value for the given data; the message names it."""


class ApprovalExpiredError(PermanentError, code="approval_expired"):
    """The agent's question expired, and its policy is to fail then."""


class SessionUnavailableError(PermanentError, code="session_unavailable"):
    """The session to continue is deleted, or belongs to another kind of agent."""


# Attempts: their model calls


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


# Attempts: their limits and processes


class TimeLimitError(ExecutionError, code="time_limit"):
    """The attempt exceeded one of its time limits."""


class SoftTimeLimit(TimeLimitError, code="soft_time_limit"):  # noqa: N818 - Celery's well-known name, part of the contract
    """Raised inside the agent at the soft limit, so that it can clean up."""


class HardTimeLimitError(TimeLimitError, code="hard_time_limit"):
    """The attempt was stopped by force at its hard limit."""


class MemoryLimitError(PermanentError, code="memory_limit"):
    """The child process exceeded its memory limit."""


class ChildCrashedError(RetryableError, code="child_crashed"):
    """The child process ended without a result: killed by a signal or by its own exit."""


class ChildProtocolError(PermanentError, code="child_protocol"):
    """A child process wrote an invalid message, or one that is too long."""


class EventLoopEndedError(RetryableError, code="event_loop_ended"):
    """The event loop of an attempt ended before the attempt did."""


class WorkerLostError(ExecutionError, code="worker_lost"):
    """The worker died or lost its connection while it ran the execution."""


class CeleryCallError(CeleriacError, code="celery_call_failed"):
    """The execution behind a Celery task has failed, or could not be started.

    Celery stores the message: a code, a reason, and the execution's id if there is one.
    """
