"""Paths to steps of runs below a run."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celeriac.domain.errors import InvalidInputError
from celeriac.domain.workflows.model import MAX_DEPTH
from celeriac.domain.workflows.paths import StepPath, step_path, with_items

ITEMS = st.sets(st.integers(0, 99_999), max_size=3).map(lambda found: tuple(sorted(found)))
STEPS = st.from_regex(r"[a-z][a-z0-9_]{0,9}", fullmatch=True)
PARTS = st.lists(st.tuples(STEPS, st.integers(0, 99_999) | st.none()), max_size=MAX_DEPTH - 1)


@given(PARTS, STEPS, ITEMS)
def test_a_path_is_read_as_it_is_written(
    above: list[tuple[str, int | None]], last: str, items: tuple[int, ...]
) -> None:
    path = StepPath(last, items)
    for step, item in reversed(above):
        path = StepPath(step, () if item is None else (item,), path)
    assert step_path(str(path)) == path
    if not items:
        assert str(with_items(path, [2, 1, 2])) == f"{path}[1,2]"


@pytest.mark.parametrize(
    "text",
    ["", "/", "a/", "/a", "a//b", "a[", "a[]", "a[-1]", "a[1.5]", "a[x]", "a[1]b", "a[1][2]", "1a",
     "a b", "a.undo", "a[100000]", "a[1, 2]", "a[1,2]/b", "a[٣]", "a\n", "é", "a\\b"],
)  # fmt: skip
def test_what_is_no_path_is_refused(text: str) -> None:
    with pytest.raises(InvalidInputError) as refused:
        step_path(text)
    assert refused.value.field == "step"


def test_items_are_given_once() -> None:
    with pytest.raises(InvalidInputError, match=r"The path ends with 'b\[1\]'") as refused:
        with_items(step_path("a/b[1]"), [2])
    assert refused.value.field == "items"
