"""Stored filters of saved views: read as those of requests, and narrowed by a request."""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any, TypeVar

from pydantic import ValidationError

from celeriac.api.v1.executions.schemas import Conditions, Criteria, ViewFilter
from celeriac.domain.errors import InvalidInputError
from celeriac.domain.saved_views import SavedView
from celeriac.kit.validation import first_fault

C = TypeVar("C", bound=Criteria)

_WITHIN = "created_within"


def filter_problem(view: SavedView) -> str | None:
    """Return why a view can't be used by this release, or None."""
    try:
        ViewFilter.model_validate(dict(view.filter))
    except ValidationError as error:
        field, message = first_fault(error)
        return f"This release can't use {field or 'its filter'}: {message}."
    return None if view.filter else "Its filter is empty and would select everything."


def stored_filter(view: SavedView) -> ViewFilter:
    """Return the filter of a view. Raises InvalidInputError if this release does not know it.

    So a view that was saved by another release never selects more than it says.
    """
    if (problem := filter_problem(view)) is not None:
        raise InvalidInputError(
            f"The view {view.name!r} can't be used. {problem} Change its filter, or delete it.",
            field="view",
        )
    return ViewFilter.model_validate(dict(view.filter))


def narrowed(body: C, view: SavedView, selects: ViewFilter, *, now: datetime) -> C:
    """Return the request with the conditions of a view and its own; both must match.

    Raises InvalidInputError for a field of both that can't match both.
    """
    own, merged = given_fields(body), given_fields(selects)
    within = merged.pop(_WITHIN, None)
    if within is not None:
        since = (now - timedelta(seconds=within)).isoformat()
        merged = _joined(view, {"created_after": since}, merged)
    own.pop("view")
    values = _joined(view, own, merged)
    try:
        return type(body).model_validate(values)
    except ValidationError as error:  # such as a status that the request does not change
        field, message = first_fault(error)
        raise InvalidInputError(
            f"The view {view.name!r} does not fit this request: {field}: {message}.", field="view"
        ) from error


def given_fields(model: Conditions) -> dict[str, Any]:
    """Return the fields of a filter that were given, as they are stored."""
    stated = model.model_dump(mode="json", exclude_unset=True)
    return {name: value for name, value in stated.items() if value is not None}


def _joined(view: SavedView, own: dict[str, Any], of_view: dict[str, Any]) -> dict[str, Any]:
    values = of_view | own
    for name in own.keys() & of_view.keys():
        values[name] = _both(view, name, own[name], of_view[name])
    return values


def _both(view: SavedView, name: str, own: Any, of_view: Any) -> Any:
    """Return the value of a field that selects what both values select."""
    both: Any = own
    if name in _EITHER:
        both = [each for each in own if each in of_view]
        fits = bool(both)
    elif name in _ALL:
        both, fits = list(dict.fromkeys([*of_view, *own])), True
    elif name in _TIMES:
        both, fits = _TIMES[name](own, of_view, key=datetime.fromisoformat), True
    else:
        fits = own == of_view
    if not fits:
        raise InvalidInputError(
            f"The view {view.name!r} selects {name} {_shown(of_view)}, so it has none of "
            f"{_shown(own)}; leave out {name} or the view.",
            field=name,
        )
    return both


_EITHER = frozenset({"id", "status"})
"""Fields of which one value must match."""

_ALL = frozenset({"label", "without_label"})
"""Fields of which all values hold."""

_TIMES: dict[str, Callable[..., str]] = {"created_after": max, "created_before": min}


def _shown(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
