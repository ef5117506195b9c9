"""Turns in rotation: nobody waits longer than until everybody else has had one turn."""

from collections import Counter
from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from celeriac.domain.executions.fair_turns import Owner, Rotation

_IDS = st.lists(
    st.builds(UUID, int=st.integers(1, 99)), min_size=1, max_size=6, unique=True
).map(sorted)  # fmt: skip
_WAITING = _IDS.flatmap(lambda ids: st.fixed_dictionaries(dict.fromkeys(ids, _IDS)))


def owner(workspace: int, user: int) -> Owner:
    return Owner(UUID(int=workspace), UUID(int=user))


@given(_WAITING, st.lists(st.integers(0, 30), min_size=1, max_size=8))
def test_workspaces_and_in_them_users_have_equally_many(
    waiting: dict[UUID, list[UUID]], dealt: list[int]
) -> None:
    """However many places are dealt at a time."""
    rotation, places = Rotation(), Counter[Owner]()
    for count in dealt:
        found = rotation.deal(waiting, count)
        assert sum(found.values()) == count
        places.update(found)

    of_workspaces = Counter(dict.fromkeys(waiting, 0))
    for each, count in places.items():
        of_workspaces[each.workspace_id] += count
    assert max(of_workspaces.values()) - min(of_workspaces.values()) <= 1
    for workspace, users in waiting.items():
        of_users = [places[Owner(workspace, user)] for user in users]
        assert max(of_users) - min(of_users) <= 1


def test_who_comes_later_is_next_in_the_round() -> None:
    rotation = Rotation()
    assert rotation.deal({UUID(int=1): [UUID(int=1)]}, 3) == {owner(1, 1): 3}
    both = {UUID(int=1): [UUID(int=1), UUID(int=2)], UUID(int=2): [UUID(int=3)]}
    assert list(rotation.deal(both, 4)) == [owner(2, 3), owner(1, 2), owner(1, 1)]
    assert rotation.deal({}, 4) == {}
