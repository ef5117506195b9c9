"""Documents over HTTP: agents, tasks and budgets in one request."""

from typing import Annotated

from fastapi import APIRouter, Query

from celeriac import wire
from celeriac.api import views
from celeriac.api.answers import WRITING, problems
from celeriac.api.deps import AtDesk, Operator
from celeriac.api.json_route import JsonRoute
from celeriac.api.schemas.document import Document

router = APIRouter(prefix="/apply", tags=["catalog"], route_class=JsonRoute)


@router.post(
    "",
    operation_id="apply_document",
    summary="Make agents, tasks and budgets as a document says",
    responses=WRITING | problems(409),
)
def apply(
    body: Document,
    actor: Operator,
    desk: AtDesk,
    dry_run: Annotated[
        bool, Query(description="Say what would be done, and write nothing.")
    ] = False,
) -> wire.Applied:
    """Create what is missing and change what differs, all or nothing. Nothing is deleted.

    The same document again changes nothing. Whatever is wrong with it is in `fields`.
    """
    outcomes = desk.apply(actor, body.plain(), dry_run=dry_run)
    warnings = {each.name: desk.advice.warnings(each.spec) for each in body.agents}
    return views.applied(outcomes, warnings, dry_run=dry_run)
