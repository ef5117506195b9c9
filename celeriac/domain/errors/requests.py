"""Errors of whoever asks for something, and of what is asked."""

from collections.abc import Sequence

from celeriac.domain.errors.base import CeleriacError
from celeriac.kit.json_types import JsonValue

_SHOWN = 5


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


class DocumentInvalidError(InvalidInputError):
    """A document that describes agents, tasks and budgets can't be applied."""

    code = "document_invalid"

    def __init__(self, places: Sequence[tuple[str, str]]) -> None:
        """`places` are the fields that are wrong, as `tasks.2.spec.prompt`, and what is wrong."""
        shown = "; ".join(f"{field}: {message}" for field, message in places[:_SHOWN])
        more = f"; and {len(places) - _SHOWN} more" if len(places) > _SHOWN else ""
        super().__init__(f"Nothing was changed. {shown}{more}", field=places[0][0])
        self.places = tuple(places)


class CassetteInvalidError(InvalidInputError):
    """A text is no cassette (docs/cassettes.md); `field` names the line."""

    code = "cassette_invalid"


class TooLargeError(InvalidInputError):
    """A value is over its documented size limit."""

    code = "too_large"


class NotFoundError(CeleriacError):
    """There is no such resource, or it is someone else's (which answers the same)."""

    code = "not_found"

    def __init__(self, resource: str, identifier: object) -> None:
        super().__init__(f"There is no {resource} {identifier}.", resource=resource)


class FilesNotHereError(NotFoundError):
    """The files of something that exists are not on this machine, or there are none."""

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


class AnswerInvalidError(InvalidInputError):
    """An answer doesn't fit its question."""

    code = "answer_invalid"


class ApprovalClosedError(ConflictError):
    """The question was answered otherwise, has expired, or is not needed any more."""

    code = "approval_closed"


class LinkInvalidError(CeleriacError):
    """A link that answers a question was not made here, or its time is over."""

    code = "link_invalid"


class ResultUnreadableError(ConflictError):
    """The result backend holds something for a Celery task that is no result of Celery's."""

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
    """An execution works in the session, or waits to."""

    code = "session_in_use"


class SessionDeletedError(ConflictError):
    """The session was deleted; nothing can go on with it."""

    code = "session_deleted"


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


class HostRefusedError(CeleriacError):
    """The request names a host that this server doesn't answer for."""

    code = "host_refused"


class RequestTimeoutError(CeleriacError):
    """A request took too long to arrive."""

    code = "request_timeout"


class TooManyRequestsError(CeleriacError):
    """The caller has to wait; `retry_after` says how many seconds."""

    code = "too_many_requests"

    def __init__(self, message: str, *, retry_after: int) -> None:
        super().__init__(message, retry_after=retry_after)
        self.retry_after = retry_after


class UnavailableError(CeleriacError):
    """A server that Celeriac needs doesn't answer; trying again later may help."""

    code = "unavailable"


class BusyError(UnavailableError):
    """This process does as much of such work as it may; trying again later may help."""

    code = "busy"


class DatabaseUnavailableError(UnavailableError):
    """PostgreSQL did not do it, or its answer was lost; the same may be tried again.

    Itself: the server can't be reached, or can't write. Its subclasses: it could, and did not.
    """

    code = "database_unavailable"


class DatabaseBusyError(DatabaseUnavailableError):
    """Others hold what the statement needs: a lock time-out, a deadlock, a lost race."""

    code = "database_busy"


class DatabaseTimeoutError(DatabaseUnavailableError):
    """The statement ran past its time limit, or an operator cancelled it."""

    code = "database_timeout"


class BrokerUnavailableError(UnavailableError):
    """The message broker doesn't answer; what was accepted is stored and will be sent later."""

    code = "broker_unavailable"


class ConfigurationError(CeleriacError):
    """A setting is missing or wrong; the message names it."""

    code = "configuration_invalid"


class LeaseLostError(CeleriacError):
    """This worker no longer owns the attempt: whatever it would write is refused."""

    code = "lease_lost"
