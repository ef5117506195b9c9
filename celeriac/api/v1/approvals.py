"""Approvals over HTTP: questions to people. `web/approval_links` needs no key."""

from typing import Annotated, Any, ClassVar
from uuid import UUID

from fastapi import APIRouter, Path, Query, Request
from pydantic import ConfigDict, Field, StringConstraints
from starlette.responses import Response

from celeriac import wire
from celeriac.api.core import links, views
from celeriac.api.core.auth import Caller, Operator
from celeriac.api.core.pages import Paging
from celeriac.api.core.parameters import Services, Shared
from celeriac.api.core.requests import JsonRoute
from celeriac.api.core.responses import problem_responses
from celeriac.domain.approvals import MAX_NOTE, Answer, ApprovalFilter, ApprovalStatus
from celeriac.domain.base import Strict
from celeriac.services.approvals.answer import Link


class AnswerRequest(Strict):
    """A person's answer."""

    BULK: ClassVar[bool] = True

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"approved": True, "note": "Fine by me."}]}
    )

    approved: bool
    value: Any = Field(
        default=None,
        description="The text for a free question, or the value of a form; for a tool, changed "
        "arguments.",
    )
    note: Annotated[str, StringConstraints(max_length=MAX_NOTE)] = Field(
        default="", description="A note, which the agent or the steps of the workflow can read."
    )

    def answer(self) -> Answer:
        """Return the answer for the service."""
        return Answer(approved=self.approved, value=self.value, note=self.note)


router = APIRouter(prefix="/approvals", tags=["approvals"], route_class=JsonRoute)

ApprovalPath = Annotated[UUID, Path(description="The question's id.")]


@router.get("", response_model=wire.Page[wire.Approval], summary="List questions")
def list_approvals(
    actor: Caller,
    services: Services,
    paging: Paging,
    status: Annotated[list[ApprovalStatus], Query(description="One or several.")] = [],  # noqa: B006
    execution_id: Annotated[UUID | None, Query(description="Of this execution.")] = None,
    workflow_run_id: Annotated[
        UUID | None, Query(description="Of the steps of this run of a workflow.")
    ] = None,
) -> Response:
    """Return the questions of the workspace's executions and workflow runs, the newest first."""
    wanted = ApprovalFilter(statuses=status, execution_id=execution_id, run_id=workflow_run_id)
    return paging.answer(views.approval, services.approvals.find, actor, wanted)


@router.get("/{approval_id}", summary="Get a question")
def get_approval(approval_id: ApprovalPath, actor: Caller, services: Services) -> wire.Approval:
    """Return a question with its status and its answer."""
    return views.approval(services.approvals.get(actor, approval_id))


@router.post(
    "/{approval_id}/link", summary="Create a link to a question", responses=problem_responses(409)
)
def link_approval(
    request: Request, approval_id: ApprovalPath, actor: Operator, services: Services, shared: Shared
) -> wire.ApprovalLink:
    """Create a signed link with which anybody can answer the question, once, without a key.

    It works until the question expires, and while you are a member who may answer. Its address
    begins with `CELERIAC_PUBLIC_URL` or, if that is not set, with the address on which the server
    listens.
    """
    found = services.approvals.get_for_link(actor, approval_id)
    base = shared.settings.public_url or links.listening(request.scope.get("server"))
    link = Link(found.id, actor.user_id, found.links_revoked)
    token = services.approval_links.token(link, found.expires_at)
    return wire.ApprovalLink(url=f"{base}{links.signed(token)}", expires_at=found.expires_at)


@router.post(
    "/{approval_id}/revoke-links", status_code=204, summary="Revoke the links to a question"
)
def revoke_approval_links(approval_id: ApprovalPath, actor: Operator, services: Services) -> None:
    """Make all links to the question void, those of notifications included."""
    services.approvals.revoke_links(actor, approval_id)


@router.post("/{approval_id}/answer", summary="Answer a question", responses=problem_responses(409))
def answer_approval(
    approval_id: ApprovalPath, body: AnswerRequest, actor: Operator, services: Services
) -> wire.Approval:
    """Answer an open question. Its execution continues once no other question of it is open.

    After the answer to a step of a workflow, the steps that need it run, or are skipped.

    The same answer again returns the same. Another one, or one that comes too late, is refused with
    `approval_closed`.
    """
    return views.approval(services.approvals.answer(actor, approval_id, body.answer()))
