"""Cursors and pages."""

from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celeriac.domain.errors import CursorInvalidError
from celeriac.domain.paging import Page, read_cursor, write_cursor


@given(st.uuids())
def test_a_cursor_comes_back_as_it_was(last: UUID) -> None:
    assert read_cursor("tasks", write_cursor("tasks", last)) == last


@given(st.uuids())
def test_no_other_list_takes_it(last: UUID) -> None:
    with pytest.raises(CursorInvalidError) as caught:
        read_cursor("agents", write_cursor("tasks", last))
    assert caught.value.field == "cursor"


@given(st.text())
def test_anything_else_is_refused_or_empty(cursor: str) -> None:
    with pytest.raises(CursorInvalidError):
        read_cursor("tasks", cursor)


def test_without_a_cursor_the_first_page_begins() -> None:
    assert read_cursor("tasks", None) is None


@pytest.mark.parametrize(("found", "items", "more"), [(0, 0, False), (3, 3, False), (4, 3, True)])
def test_a_page_has_a_next_one_only_if_there_is_more(found: int, items: int, more: bool) -> None:
    ids = [UUID(int=number) for number in range(found)]
    page = Page.cut(ids, limit=3, kind="tasks", key=lambda key: key)
    assert len(page.items) == items
    assert (page.next_cursor is not None) is more
    if page.next_cursor is not None:
        assert read_cursor("tasks", page.next_cursor) == page.items[-1]
