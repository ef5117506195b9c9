"""Stored filters of saved views: what a request and a view select together."""

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest

from celeriac.api.v1.executions.narrowing import (
    filter_problem,
    given_fields,
    narrowed,
    stored_filter,
)
from celeriac.api.v1.executions.schemas import (
    CancelMany,
    Conditions,
    ListMany,
    RetryMany,
    ViewFilter,
)
from celeriac.domain.errors import InvalidInputError
from celeriac.domain.saved_views import BUILT_IN, SavedView

pytestmark = pytest.mark.requirement("F19")

NOW = datetime(2026, 11, 28, 12, tzinfo=UTC)


def saved(**selects: Any) -> SavedView:
    return SavedView(UUID(int=9), "mine", selects, shared=False, owner_id=UUID(int=1))


def together(view: SavedView, body: Any) -> dict[str, Any]:
    merged = narrowed(body, view, stored_filter(view), now=NOW)
    shown: dict[str, Any] = merged.model_dump(mode="json", exclude_unset=True)
    return shown


@pytest.mark.parametrize(
    ("of_view", "own", "both"),
    [
        ({"status": ["failed"]}, {}, {"status": ["failed"]}),
        ({}, {"task": "a"}, {"task": "a"}),
        (
            {"status": ["failed", "cancelled"]},
            {"status": ["completed", "failed"]},
            {"status": ["failed"]},
        ),
        ({"task": "a"}, {"task": "a", "flag": "no_op"}, {"task": "a", "flag": "no_op"}),
        ({"label": ["a:1"]}, {"label": ["b:2", "a:1"]}, {"label": ["a:1", "b:2"]}),
        (
            {"created_after": "2026-11-01T00:00:00Z"},
            {"created_after": "2026-11-01T01:00:00+02:00"},
            {"created_after": "2026-11-01T00:00:00Z"},
        ),
        (
            {"created_before": "2026-11-01T00:00:00Z"},
            {"created_before": "2026-11-01T01:00:00+02:00"},
            {"created_before": "2026-11-01T01:00:00+02:00"},
        ),
        ({"created_within": 3_600}, {}, {"created_after": "2026-11-28T11:00:00Z"}),
        (
            {"created_within": 3_600, "created_after": "2026-11-28T11:30:00Z"},
            {},
            {"created_after": "2026-11-28T11:30:00Z"},
        ),
    ],
)
def test_a_request_narrows_a_view(
    of_view: dict[str, Any], own: dict[str, Any], both: dict[str, Any]
) -> None:
    view = saved(**(of_view or {"flag": "silent"}))
    wanted = both if of_view else both | {"flag": "silent"}
    assert together(view, ListMany.model_validate(own | {"view": "mine"})) == wanted


@pytest.mark.parametrize(
    ("of_view", "own", "field"),
    [
        ({"status": ["failed"]}, {"status": ["completed"]}, "status"),
        ({"task": "a"}, {"task": "b"}, "task"),
    ],
)
def test_a_request_never_widens_a_view(
    of_view: dict[str, Any], own: dict[str, Any], field: str
) -> None:
    with pytest.raises(InvalidInputError, match=f"leave out {field} or the view") as refused:
        together(saved(**of_view), ListMany.model_validate(own | {"view": "mine"}))
    assert refused.value.field == field


def test_a_change_takes_the_statuses_of_a_view_and_refuses_what_it_can_not_change() -> None:
    body = RetryMany.model_validate({"view": "mine", "limit": 5})
    view = saved(status=["cancelled"])
    assert together(view, body) == {"status": ["cancelled"], "limit": 5}
    with pytest.raises(InvalidInputError, match="does not fit this request: status"):
        together(view, CancelMany.model_validate({"view": "mine", "limit": 5}))


@pytest.mark.parametrize(
    ("selects", "words"),
    [
        ({"colour": "red"}, "colour"),
        ({"flag": "of_later"}, "flag"),
        ({"status": ["failed", "dreaming"]}, "status"),
        ({"view": "other"}, "view"),
        ({}, "everything"),
    ],
)
def test_a_filter_that_this_release_does_not_know_is_named_and_never_used(
    selects: dict[str, Any], words: str
) -> None:
    view = saved(**selects)
    assert words in (filter_problem(view) or "")
    with pytest.raises(InvalidInputError, match=words) as refused:
        stored_filter(view)
    assert refused.value.field == "view"


def test_built_in_views_are_filters_of_this_release() -> None:
    for each in BUILT_IN:
        assert given_fields(stored_filter(each)) == each.filter
    assert [each.id for each in BUILT_IN] == sorted((each.id for each in BUILT_IN), reverse=True)


def test_a_view_stores_each_condition_of_a_list() -> None:
    assert Conditions.model_fields.keys() <= ViewFilter.model_fields.keys()
    assert ListMany.model_fields.keys() - ViewFilter.model_fields.keys() == {
        "view", "cursor", "limit", "include",
    }  # fmt: skip
