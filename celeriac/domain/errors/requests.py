"""Errors of requests: the input, the resource and its state, the caller."""

from collections.abc import Sequence

from celeriac.domain.errors.base import CeleriacError
from celeriac.kit.json_types import JsonValue

_SHOWN = 5


# The input


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


# The resource and its state


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


# The caller


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
        """`why` is for the admins of the workspace; the sender does not get it."""
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


class CeleryCallError(CeleriacError, code="celery_call_failed"):
    """The execution behind a Celery task has failed, or could not be started.

    Celery stores the message: a code, a reason, and the execution's id if there is one.
    """
