"""Signed links to questions: GET shows one, POST answers it."""

from typing import Annotated, Any
from urllib.parse import parse_qsl

from fastapi import APIRouter, Path, Request
from pydantic import ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from celeriac.api.core import problems as problems_of
from celeriac.api.core import views
from celeriac.api.core.parameters import Services
from celeriac.api.core.requests import JsonRoute, parse
from celeriac.api.core.responses import json_response, problem_responses
from celeriac.api.v1.approvals import AnswerRequest
from celeriac.api.web.approval_page import answer_of, closed_page, message_page, question_page
from celeriac.domain.approvals import Answer, Approval, ApprovalStatus
from celeriac.domain.errors import (
    ApprovalClosedError,
    ForbiddenError,
    InvalidInputError,
    LinkInvalidError,
    NotFoundError,
    TooLargeError,
)
from celeriac.kit.validation import first_fault
from celeriac.services.approvals.answer import Link
from celeriac.wire import LinkedApproval
from celeriac.wiring.api import ApiServices

router = APIRouter(prefix="/approvals/links", tags=["approvals"], route_class=JsonRoute)

_FORM = "application/x-www-form-urlencoded"
_MAX_FIELDS = 200
_MAX_BODY = 1_000_000

Token = Annotated[
    str,
    Path(
        min_length=1,
        max_length=200,
        pattern=r"^[A-Za-z0-9_-]+$",
        description="The link's token, from the notification of the question.",
    ),
]

_HTML: dict[str, Any] = {"text/html": {"schema": {"type": "string"}}}
_PAGE: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The question, as a page or as JSON.",
        "model": LinkedApproval,
        "content": _HTML,
    }
}
_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {"schema": AnswerRequest.model_json_schema()},
            _FORM: {
                "schema": {
                    "type": "object",
                    "properties": {
                        "decision": {"type": "string", "enum": ["approve", "deny"]},
                        "note": {"type": "string"},
                    },
                    "required": ["decision"],
                }
            },
        },
    }
}


def _pages(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the documentation of problems that browsers get as pages."""
    return {
        status: said | {"content": _HTML} for status, said in problem_responses(*statuses).items()
    }


@router.get(
    "/{token}",
    operation_id="show_linked_approval",
    summary="Show the question behind a link",
    response_class=Response,
    responses=_PAGE | _pages(404) | problem_responses(422, 503),
)
def show(request: Request, token: Token, services: Services) -> Response:
    """Show a question to the holder of a signed link. Needs no key and changes nothing.

    Returns a page with a form or, for clients that accept `application/json`, JSON. The page also
    shows that the question was answered; after its expiry the link is unknown.
    """
    try:
        found = services.approvals.get_by_link(services.approval_links.read(token))
    except (LinkInvalidError, NotFoundError) as error:
        return _nothing(request, error)
    return _shown(request, found)


@router.post(
    "/{token}",
    operation_id="answer_linked_approval",
    summary="Answer the question behind a link",
    response_class=Response,
    responses=_PAGE | _pages(403, 404, 409, 422) | problem_responses(400, 413, 503),
    openapi_extra=_BODY,
)
async def respond(request: Request, token: Token, services: Services) -> Response:
    """Answer a question, once, as the holder of a signed link. Needs no key."""
    try:
        # like a key, the link is checked before the body is read
        link = services.approval_links.read(token)
    except LinkInvalidError as error:
        return await run_in_threadpool(_nothing, request, error)
    body = await request.body()
    return await run_in_threadpool(_respond, request, link, services, body)


def _respond(request: Request, link: Link, services: ApiServices, body: bytes) -> Response:
    if len(body) > _MAX_BODY:
        raise TooLargeError(
            f"An answer has at most {_MAX_BODY} bytes.", field="body", limit=_MAX_BODY
        )
    try:
        asked = services.approvals.get_by_link(link)
    except NotFoundError as error:
        return _nothing(request, error)
    if not _is_form(request):
        return _json(_answered(request, services, link, _request(body)))
    return _respond_to_form(request, services, link, asked, _sent(body))


def _respond_to_form(
    request: Request, services: ApiServices, link: Link, asked: Approval, sent: dict[str, str]
) -> Response:
    try:
        found = _answered(request, services, link, answer_of(asked, sent))
    except ApprovalClosedError as error:
        return message_page(error.message, status=409)
    except ForbiddenError as error:
        return message_page(error.message, status=403)
    except InvalidInputError as error:
        return question_page(asked, fault=error.message, given=sent)
    return closed_page(found, now=True)


def _answered(request: Request, services: ApiServices, link: Link, given: Answer) -> Approval:
    request_id = request.state.request_id
    return services.approvals.answer_by_link(link, given, request_id=request_id)


def _shown(request: Request, found: Approval) -> Response:
    if _wants_json(request):
        return _json(found)
    if found.status is ApprovalStatus.OPEN and not found.expired:
        return question_page(found)
    return closed_page(found)


def _json(found: Approval) -> Response:
    headers = {"Cache-Control": "no-store"}
    return json_response(views.linked_approval(found), status=200, headers=headers)


def _nothing(request: Request, error: LinkInvalidError | NotFoundError) -> Response:
    """Return the answer for a link without a question, the same for every reason."""
    if isinstance(error, NotFoundError):
        error = LinkInvalidError("This link is not valid any more. Ask its sender for another one.")
    if _wants_json(request):
        raise error
    problems_of.record_refusal(request, error)
    return message_page(error.message, status=404)


def _wants_json(request: Request) -> bool:
    """Return whether the client is a program: browsers accept HTML."""
    accepted = request.headers.get("accept", "")
    return "text/html" not in accepted and not _is_form(request)


def _is_form(request: Request) -> bool:
    media = request.headers.get("content-type", "")
    return media.partition(";")[0].strip().lower() == _FORM


def _request(body: bytes) -> Answer:
    try:
        return AnswerRequest.model_validate(parse(body)).answer()
    except ValidationError as error:
        place, fault = first_fault(error)
        field = place or "body"
        raise InvalidInputError(f"{field}: {fault}.", field=field) from error


def _sent(body: bytes) -> dict[str, str]:
    try:
        pairs = parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=_MAX_FIELDS)
    except ValueError as error:
        raise InvalidInputError(f"The form can't be read: {error}.", field="body") from error
    return dict(pairs)
