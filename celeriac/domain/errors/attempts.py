"""Errors that end an attempt: of its agent, its limits and its processes."""

from typing import ClassVar

from celeriac.domain.errors.base import CeleriacError

# The agent


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


class PushFailedError(PermanentError, code="push_failed"):
    """The change is stored, but its branch can't be pushed; another attempt would do it again."""


class PullRequestFailedError(PermanentError, code="pull_request_failed"):
    """The change is pushed, but there is no pull request for it."""


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


# Limits and processes


class TimeLimitError(ExecutionError, code="time_limit"):
    """The attempt exceeded one of its time limits."""


class SoftTimeLimit(TimeLimitError, code="soft_time_limit"):  # noqa: N818 - Celery's well-known name, part of the contract
    """Raised inside the agent at the soft limit, so that it can clean up."""


class HardTimeLimitError(TimeLimitError, code="hard_time_limit"):
    """The attempt was stopped by force at its hard limit."""


class MemoryLimitError(PermanentError, code="memory_limit"):
    """A child process, or all of an attempt together, exceeded the memory limit."""


class DiskLimitError(PermanentError, code="disk_limit"):
    """The files of an attempt exceeded its limit of disk space, or of their number."""


class ChildCrashedError(RetryableError, code="child_crashed"):
    """The child process ended without a result: killed by a signal or by its own exit."""


class ChildProtocolError(PermanentError, code="child_protocol"):
    """A child process wrote an invalid message, or one that is too long."""


class EventLoopEndedError(RetryableError, code="event_loop_ended"):
    """The event loop of an attempt ended before the attempt did."""


class WorkerLostError(ExecutionError, code="worker_lost"):
    """The worker died or lost its connection while it ran the execution."""
