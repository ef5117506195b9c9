"""Paths of a session's directory are stored without it, and read with that of another one."""

from pathlib import Path
from typing import Any

import pytest

from celeriac.agents.claude.place import NOWHERE, SessionPlace

pytestmark = pytest.mark.requirement("A12")


def test_texts_and_names_get_the_path_of_the_other_place(tmp_path: Path) -> None:
    one, other = (SessionPlace.of(tmp_path / name / "0199") for name in ("one", "other"))
    value: Any = {
        f"{one.path}/a": [f"cat {one.path}/work/x {one.path}", {"n": 1, "none": None}],
        "plain": True,
    }
    stored = one.without_paths(value)

    assert str(tmp_path) not in str(stored)
    assert one.with_paths(stored) == value
    assert other.with_paths(stored) == {
        f"{other.path}/a": [f"cat {other.path}/work/x {other.path}", {"n": 1, "none": None}],
        "plain": True,
    }
    assert other.moved(value, one.path) == other.with_paths(stored)
    assert other.moved(value, None) == value


def test_no_text_of_an_agent_becomes_a_path(tmp_path: Path) -> None:
    """An answer to one call must not be taken for another call's."""
    place = SessionPlace.of(tmp_path)
    written = place.without_paths(place.path)

    for text in (written, f"{written}0", "\ue0ce", "\ue0ce0", "\ue0ce1", "\ue0ce01"):
        stored = place.without_paths(text)
        assert stored != written
        assert place.with_paths(stored) == text


def test_paths_through_links_are_the_same_place(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    place = SessionPlace.of(tmp_path / "link" / "0199")

    stored = place.without_paths([place.path, str(tmp_path / "real" / "0199")])

    assert place.with_paths(stored) == [place.path, place.path]
    assert NOWHERE.with_paths(NOWHERE.without_paths([place.path])) == [place.path]
