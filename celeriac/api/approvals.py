"""Approvals over HTTP: what agents ask people. Answering without a key is in `approval_links`."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Path, Query, Request
from starlette.responses import Response

from celeriac import wire
from celeriac.api import links, views
from celeriac.api.answers import READING, WRITING, answer, problems
from celeriac.api.deps import AtDesk, Caller, Cursor, Limit, Operator, Shared
from celeriac.api.json_route import JsonRoute
from celeriac.api.schemas.approvals import AnswerRequest
from celeriac.db.approvals import ApprovalFilter
from celeriac.domain.approval import ApprovalStatus

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
    desk: AtDesk,
    status: Annotated[list[ApprovalStatus], Query(description="One or several.")] = [],  # noqa: B006
    execution_id: Annotated[UUID | None, Query(description="Of this execution.")] = None,
    cursor: Cursor = None,
    limit: Limit = 50,
) -> Response:
    """Return what your executions ask, the newest first; an admin sees everybody's."""
    wanted = ApprovalFilter(statuses=status, execution_id=execution_id)
    page = desk.approvals.find(actor, wanted, cursor=cursor, limit=limit)
    items = list(map(views.approval, page.items))
    return answer(wire.Page(items=items, next_cursor=page.next_cursor))


@router.get(
    "/{approval_id}",
    operation_id="get_approval",
    summary="Get a question",
    responses=READING | problems(404),
)
def get(approval_id: ApprovalPath, actor: Caller, desk: AtDesk) -> wire.Approval:
    """Return a question as it stands."""
    return views.approval(desk.approvals.get(actor, approval_id))


@router.post(
    "/{approval_id}/link",
    operation_id="link_approval",
    summary="Make a link to a question",
    responses=WRITING | problems(404, 409),
)
def link(
    request: Request, approval_id: ApprovalPath, actor: Operator, desk: AtDesk, shared: Shared
) -> wire.ApprovalLink:
    """Make a signed link with which anybody can answer the question, once, without a key.

    It works until the question expires. Its address begins with `CELERIAC_PUBLIC_URL` or, where
    that is not set, with the address that the server listens on.
    """
    found = desk.approvals.to_link(actor, approval_id)
    base = shared.settings.public_url or links.listening(request.scope.get("server"))
    token = desk.approval_links.token(found.id, found.expires_at, links_revoked=found.links_revoked)
    return wire.ApprovalLink(url=f"{base}{links.signed(token)}", expires_at=found.expires_at)


@router.post(
    "/{approval_id}/revoke-links",
    status_code=204,
    response_class=Response,
    operation_id="revoke_approval_links",
    summary="Revoke the links to a question",
    responses=READING | problems(403, 404),
)
def revoke_links(approval_id: ApprovalPath, actor: Operator, desk: AtDesk) -> Response:
    """Make all links void that were made for the question so far, those of notices included."""
    desk.approvals.revoke_links(actor, approval_id)
    return Response(status_code=204)


@router.post(
    "/{approval_id}/answer",
    operation_id="answer_approval",
    summary="Answer a question",
    responses=WRITING | problems(404, 409),
)
def respond(
    approval_id: ApprovalPath, body: AnswerRequest, actor: Operator, desk: AtDesk
) -> wire.Approval:
    """Answer an open question; its execution goes on once nothing else is open.

    The same answer again answers the same; another one, or an answer that comes too late, is
    refused with `approval_closed`.
    """
    return views.approval(desk.approvals.answer(actor, approval_id, body.answer()))
