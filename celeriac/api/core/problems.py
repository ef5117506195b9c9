"""Problem documents (RFC 9457) for all errors."""

from collections.abc import Mapping, Sequence
from typing import Any

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import compile_path

from celeriac.api.core.links import shown_path
from celeriac.domain import errors
from celeriac.domain.errors import CeleriacError
from celeriac.kit.json_types import JsonObject, dumps
from celeriac.kit.text import clip
from celeriac.wire import Problem, ProblemField

_CURES = {
    "missing": "is required; add it",
    "extra_forbidden": "is not a field here; remove it or correct its name",
    "json_invalid": "is not valid JSON",
    "uuid_parsing": "is not an id; write it whole, as in 0199f3a2-1c5e-7d30-9a64-0b8f6b1d2c11",
    "uuid_type": "is not an id; write it as a string",
    "int_parsing_size": "is too large a number",
}
_OWN_WORDS = "Value error, "
_WHOLE = "body"


def faults(found: Sequence[Any], body: object) -> list[ProblemField]:
    """Return pydantic's errors about `body` and the parameters of a request as fields.

    They contain no value of the request, which may be a secret.
    """
    return [
        ProblemField(field=_field(fault["loc"], body), message=_message(fault)) for fault in found
    ]


def _message(fault: Any) -> str:
    cure = _CURES.get(fault["type"])
    if cure is not None:
        return cure
    message = str(fault["msg"])
    if message.startswith(_OWN_WORDS):
        return message.removeprefix(_OWN_WORDS)
    return message[:1].lower() + message[1:]


def _field(location: Sequence[int | str], body: object) -> str:
    place, *path = location
    if place != _WHOLE:
        return ".".join(str(part) for part in path)
    return ".".join(_steps(path, body)) or _WHOLE


def _steps(path: Sequence[int | str], body: object) -> list[str]:
    # Pydantic adds the member of a union to the path: parts that are not in the body are skipped,
    # except the last one, which may be a missing field.
    steps: list[str] = []
    for index, part in enumerate(path):
        if _has(body, part):
            within = body[part]  # type: ignore[index]
            following = path[index + 1 : index + 2]
            if any(_has(body, each) and not _has(within, each) for each in following):
                continue  # a member of a union that has a field of its own name
            body = within
        elif index < len(path) - 1:
            continue
        steps.append(str(part))
    return steps


def _has(body: object, part: int | str) -> bool:
    if isinstance(body, dict):
        return part in body
    return isinstance(body, list) and isinstance(part, int) and part < len(body)


logger = structlog.get_logger(__name__)

MEDIA_TYPE = "application/problem+json"
RETRY_AFTER_SECONDS = 2
_TYPE = "urn:celeriac:problem:"
_SHOWN = 5
_MAX_FIELDS = 50
_LONGEST_DETAIL = 2_000
_LONGEST_FIELD = 300
_LONGEST_MESSAGE = 1_000
_MOST_DETAILS = 10_000
"""The maximum lengths of an answer's parts, in characters."""

STATUS_OF: Mapping[type[CeleriacError], int] = {
    errors.MalformedJsonError: 400,
    errors.HostRefusedError: 421,
    errors.RequestTimeoutError: 408,
    errors.TooManyRequestsError: 429,
    errors.InvalidInputError: 422,
    errors.TooLargeError: 413,
    errors.IdempotencyMismatchError: 422,
    errors.UnauthenticatedError: 401,
    errors.ForbiddenError: 403,
    errors.NotFoundError: 404,
    errors.InvitationInvalidError: 404,
    errors.LinkInvalidError: 404,
    errors.ConflictError: 409,
    errors.UnavailableError: 503,
}
"""The status of the nearest base class; 500 for errors without one, which are our own fault."""

METHOD_NOT_ALLOWED = "method_not_allowed"
INTERNAL_ERROR = "internal_error"
_HTTP_CODES = {404: errors.NotFoundError.code, 405: METHOD_NOT_ALLOWED}


def status_of(error: type[CeleriacError]) -> int:
    """Return the HTTP status of an error class."""
    return next((STATUS_OF[kind] for kind in error.__mro__ if kind in STATUS_OF), 500)


def problem(
    request: Request,
    *,
    status: int,
    code: str,
    detail: str,
    fields: Sequence[ProblemField] = (),
    details: JsonObject | None = None,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """Return the answer for an error."""
    body = Problem(
        type=_TYPE + code,
        title=code.replace("_", " ").capitalize(),
        status=status,
        detail=clip(detail, _LONGEST_DETAIL),
        code=code,
        request_id=getattr(request.state, "request_id", None),
        field=clip(fields[0].field, _LONGEST_FIELD) if fields else None,
        fields=[_shown(each) for each in fields[:_MAX_FIELDS]] or None,
        details=_bounded(details or {}),
    )
    return Response(
        dumps(body.model_dump(mode="json", exclude_none=True)),
        status_code=status,
        media_type=MEDIA_TYPE,
        headers=dict(headers or {}),
    )


def _shown(fault: ProblemField) -> ProblemField:
    return ProblemField(
        field=clip(fault.field, _LONGEST_FIELD), message=clip(fault.message, _LONGEST_MESSAGE)
    )


def _bounded(details: JsonObject) -> dict[str, Any] | None:
    """Return the first of `details` that fit into the limit."""
    kept: dict[str, Any] = {}
    left = _MOST_DETAILS
    for name, value in details.items():
        left -= len(name) + len(dumps(value))
        if left >= 0:
            kept[name] = value
    return kept or None


def of_error(request: Request, error: CeleriacError) -> Response:
    """Return the problem of one of our own errors."""
    status = status_of(type(error))
    if status == 500:  # noqa: PLR2004 - the one number for "our fault"
        return internal(request, error)
    details = {name: value for name, value in error.details.items() if name != "field"}
    field = error.details.get("field")
    fields = [ProblemField(field=field, message=error.message)] if field else []
    if isinstance(error, errors.DocumentInvalidError | errors.WorkflowInvalidError):
        fields = [ProblemField(field=place, message=message) for place, message in error.places]
    headers: dict[str, str] = {}
    if isinstance(error, errors.UnauthenticatedError):
        headers["WWW-Authenticate"] = "Bearer"
    if isinstance(error, errors.TooManyRequestsError):
        headers["Retry-After"] = str(error.retry_after)
    if isinstance(error, errors.UnavailableError):
        if not isinstance(error, errors.DatabaseTimeoutError):  # it would take as long again
            headers["Retry-After"] = str(RETRY_AFTER_SECONDS)
        logger.warning("api.unavailable", code=error.code, error=error.message)
    return problem(
        request,
        status=status,
        code=error.code,
        detail=error.message,
        fields=fields,
        details=details,
        headers=headers,
    )


def internal(request: Request, error: Exception) -> Response:
    """Return the problem of an unexpected error; its traceback is only logged."""
    logger.error("api.internal_error", path=shown_path(request.url.path), exc_info=error)
    return problem(
        request,
        status=500,
        code=INTERNAL_ERROR,
        detail="The server failed. Its log has the error under this request_id.",
    )


async def _on_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, CeleriacError)
    if isinstance(error, _REFUSALS):
        record_refusal(request, error)
    return of_error(request, error)


_REFUSALS = (
    errors.UnauthenticatedError,
    errors.ForbiddenError,
    errors.InvitationInvalidError,
    errors.LinkInvalidError,
    errors.TooManyRequestsError,
)


def record_refusal(request: Request, error: CeleriacError) -> None:
    """Record in the audit trail that a request was refused."""
    route = request.scope.get("route")
    request.app.state.services.access_records.refused(
        getattr(request.state, "actor", None),
        code=error.code,
        method=request.method,
        operation=getattr(route, "operation_id", None) or "unknown",
        request_id=getattr(request.state, "request_id", None),
        address=request.client.host if request.client else "unknown",
    )


async def _on_invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    every = error.errors()
    found = faults(every[:_MAX_FIELDS], error.body)
    lines = [f"{clip(fault.field, _LONGEST_FIELD)}: {fault.message}" for fault in found[:_SHOWN]]
    if len(every) > _SHOWN:
        lines.append(f"and {len(every) - _SHOWN} more")
    return problem(
        request,
        status=422,
        code=errors.InvalidInputError.code,
        detail="; ".join(lines),
        fields=found,
        details={"faults": len(every)} if len(every) > _MAX_FIELDS else None,
    )


async def _on_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if isinstance(error.__cause__, CeleriacError):
        return of_error(request, error.__cause__)
    code = _HTTP_CODES.get(error.status_code, f"http_{error.status_code}")
    detail: Any = error.detail
    if error.status_code == 404:  # noqa: PLR2004 - routing has one number for it
        detail = f"There is nothing at {request.url.path}; /docs lists all paths."
    headers = error.headers
    if error.status_code == 405:  # noqa: PLR2004 - likewise
        allowed = ", ".join(sorted(_methods(request)) or [(headers or {}).get("Allow", "")])
        headers = {"Allow": allowed}
        detail = f"{request.method} is not possible here; there are: {allowed}."
    return problem(
        request, status=error.status_code, code=code, detail=str(detail), headers=headers
    )


def _methods(request: Request) -> set[str]:
    """Return all methods of the path; Starlette's error has those of one route only."""
    return {
        method.upper()
        for path, operations in request.app.openapi()["paths"].items()
        if compile_path(path)[0].match(request.url.path)
        for method in operations
    }


def install(app: FastAPI) -> None:
    """Make every error of `app` a problem."""
    app.add_exception_handler(CeleriacError, _on_error)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(HTTPException, _on_http)
