"""`/api/v1/views`: saved views, which are filters of executions under a name."""

from typing import Annotated, Any

from fastapi import APIRouter, Path
from pydantic import ConfigDict, Field
from starlette.responses import Response

from celeriac import wire
from celeriac.api.core.auth import Caller, Operator
from celeriac.api.core.pages import Paging
from celeriac.api.core.parameters import Reference, Services
from celeriac.api.core.requests import JsonRoute
from celeriac.api.core.responses import problem_responses
from celeriac.api.v1.executions.narrowing import filter_problem, given_fields
from celeriac.api.v1.executions.schemas import ViewFilter
from celeriac.domain.base import Name, Strict
from celeriac.domain.saved_views import SavedView
from celeriac.services.saved_views import ViewChange

router = APIRouter(prefix="/views", tags=["views"], route_class=JsonRoute)

ViewPath = Annotated[
    Reference,
    Path(description="The view's id or name. Of the same name, your own before the shared one."),
]

_FILTER: dict[str, Any] = {"task": "invoice", "status": ["failed"], "created_within": 86_400}


class NewView(Strict):
    """A view to save."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"name": "bad-invoices", "filter": _FILTER}]}
    )

    name: Name
    filter: ViewFilter = Field(description="Which executions; at least one field.")
    shared: bool = Field(
        default=False, description="Whether all members of the workspace see it, or only you."
    )


class ChangedView(Strict):
    """What to change; fields that are left out stay."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"shared": True}]})

    name: Name | None = None
    filter: ViewFilter | None = Field(default=None, description="The whole new filter.")
    shared: bool | None = Field(default=None, description="Only its owner changes this.")


def _shown(found: SavedView) -> wire.SavedView:
    names = wire.SavedView.model_fields.keys() - {"links", "problem"}
    values = {name: getattr(found, name) for name in names}
    return wire.SavedView.linked(values | {"problem": filter_problem(found)})


@router.post("", status_code=201, summary="Save a view", responses=problem_responses(409))
def create_view(body: NewView, actor: Operator, services: Services) -> wire.SavedView:
    """Save a filter under a name, for `view` of lists, searches, exports and changes.

    Names of tasks and agents in it are looked up when it is used.
    """
    selects = given_fields(body.filter)
    return _shown(services.views.create(actor, body.name, selects, shared=body.shared))


@router.get("", response_model=wire.Page[wire.SavedView], summary="List views")
def list_views(actor: Caller, services: Services, paging: Paging) -> Response:
    """Return your views and the shared ones, the newest first, and then those that are built in."""
    return paging.answer(_shown, services.views.find, actor)


@router.get("/{view}", summary="Get a view")
def get_view(view: ViewPath, actor: Caller, services: Services) -> wire.SavedView:
    """Return a view. Private views of others are not found."""
    return _shown(services.views.get(actor, view))


@router.patch("/{view}", summary="Change a view", responses=problem_responses(409))
def change_view(
    view: ViewPath, body: ChangedView, actor: Operator, services: Services
) -> wire.SavedView:
    """Change the name, the filter or the visibility of a view; a built-in one stays."""
    wanted = ViewChange(
        name=body.name,
        shared=body.shared,
        filter=None if body.filter is None else given_fields(body.filter),
    )
    return _shown(services.views.change(actor, view, wanted))


@router.delete(
    "/{view}", status_code=204, summary="Delete a view", responses=problem_responses(409)
)
def delete_view(view: ViewPath, actor: Operator, services: Services) -> None:
    """Delete a view; nothing else changes."""
    services.views.delete(actor, view)
