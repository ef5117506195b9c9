"""Approvals over HTTP: what agents ask people. Answering without a key is in `approval_links`.

Requests that answer questions.
"""

from typing import Annotated, Any, ClassVar
from uuid import UUID

from fastapi import APIRouter, Path, Query, Request
from pydantic import ConfigDict, Field, StringConstraints
from starlette.responses import Response

from celeriac import wire
from celeriac.api.core import links, views
from celeriac.api.core.auth import Caller, Cursor, Limit, Operator, Services, Shared
from celeriac.api.core.requests import JsonRoute
from celeriac.api.core.responses import READING, WRITING, json_response, problem_responses
from celeriac.domain.agents import Strict
from celeriac.domain.approvals import MAX_NOTE, Answer, ApprovalFilter, ApprovalStatus


class AnswerRequest(Strict):
    """A person's answer."""

    BULK: ClassVar[bool] = True

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"approved": True, "note": "Fine by me."}]}
    )

    approved: bool
    value: Any = Field(
        default=None,
        description="The text of a free question, or the value of a form; for a tool, other "
        "arguments than asked for.",
    )
    note: Annotated[str, StringConstraints(max_length=MAX_NOTE)] = Field(
        default="", description="What the agent is told beside it."
    )

    def answer(self) -> Answer:
        """Return what was answered."""
        return Answer(approved=self.approved, value=self.value, note=self.note)


router = APIRouter(prefix="/approvals", tags=["approvals"], route_class=JsonRoute)

ApprovalPath = Annotated[UUID, Path(description="The question's id.")]


@router.get(
    "",
    response_model=wire.Page[wire.Approval],
    operation_id="list_approvals",
    summary="List questions",
    responses=READING,
)
def find(
    actor: Caller,
    services: Services,
    status: Annotated[list[ApprovalStatus], Query(description="One or several.")] = [],  # noqa: B006
    execution_id: Annotated[UUID | None, Query(description="Of this execution.")] = None,
    cursor: Cursor = None,
    limit: Limit = 50,
) -> Response:
    """Return what your executions ask, the newest first; an admin sees everybody's."""
    wanted = ApprovalFilter(statuses=status, execution_id=execution_id)
    page = services.approvals.find(actor, wanted, cursor=cursor, limit=limit)
    items = list(map(views.approval, page.items))
    return json_response(wire.Page(items=items, next_cursor=page.next_cursor))


@router.get(
    "/{approval_id}",
    operation_id="get_approval",
    summary="Get a question",
    responses=READING | problem_responses(404),
)
def get(approval_id: ApprovalPath, actor: Caller, services: Services) -> wire.Approval:
    """Return a question as it stands."""
    return views.approval(services.approvals.get(actor, approval_id))


@router.post(
    "/{approval_id}/link",
    operation_id="link_approval",
    summary="Make a link to a question",
    responses=WRITING | problem_responses(404, 409),
)
def link(
    request: Request, approval_id: ApprovalPath, actor: Operator, services: Services, shared: Shared
) -> wire.ApprovalLink:
    """Make a signed link with which anybody can answer the question, once, without a key.

    It works until the question expires. Its address begins with `CELERIAC_PUBLIC_URL` or, where
    that is not set, with the address that the server listens on.
    """
    found = services.approvals.get_for_link(actor, approval_id)
    base = shared.settings.public_url or links.listening(request.scope.get("server"))
    token = services.approval_links.token(
        found.id, found.expires_at, links_revoked=found.links_revoked
    )
    return wire.ApprovalLink(url=f"{base}{links.signed(token)}", expires_at=found.expires_at)


@router.post(
    "/{approval_id}/revoke-links",
    status_code=204,
    response_class=Response,
    operation_id="revoke_approval_links",
    summary="Revoke the links to a question",
    responses=READING | problem_responses(403, 404),
)
def revoke_links(approval_id: ApprovalPath, actor: Operator, services: Services) -> Response:
    """Make all links void that were made for the question so far, those of notices included."""
    services.approvals.revoke_links(actor, approval_id)
    return Response(status_code=204)


@router.post(
    "/{approval_id}/answer",
    operation_id="answer_approval",
    summary="Answer a question",
    responses=WRITING | problem_responses(404, 409),
)
def respond(
    approval_id: ApprovalPath, body: AnswerRequest, actor: Operator, services: Services
) -> wire.Approval:
    """Answer an open question; its execution goes on once nothing else is open.

    The same answer again answers the same; another one, or an answer that comes too late, is
    refused with `approval_closed`.
    """
    return views.approval(services.approvals.answer(actor, approval_id, body.answer()))
