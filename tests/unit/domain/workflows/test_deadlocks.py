"""Which runs wait for each other's slots, against letting all end that can."""

from itertools import product
from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from celeriac.domain.workflows.deadlocks import Key, Tree, find_deadlock

WORKSPACE = UUID(int=0)


def key(name: str) -> Key:
    return (WORKSPACE, name)


def tree(waiting: dict[int, dict[str, int]], *, goes_on: bool = False) -> Tree:
    """Return a tree whose runs wait for keys; each key with its `max`."""
    keyed = {
        UUID(int=run): {key(name): most for name, most in keys.items()}
        for run, keys in waiting.items()
    }
    return Tree(keyed, goes_on=goes_on)


def found(holders: dict[str, list[int]], trees: dict[int, Tree]) -> tuple[int, str, int] | None:
    named = {key(name): [UUID(int=run) for run in runs] for name, runs in holders.items()}
    deadlock = find_deadlock(named, {UUID(int=run): each for run, each in trees.items()})
    if deadlock is None:
        return None
    return deadlock.ending.id.int, deadlock.key, deadlock.ending.because_of.int


def test_the_youngest_of_two_that_wait_for_each_other() -> None:
    trees = {1: tree({11: {"b": 1}}), 2: tree({22: {"a": 1}})}
    assert found({"a": [1], "b": [2]}, trees) == (22, "a", 1)


def test_who_only_waits_for_them_is_not_chosen() -> None:
    trees = {1: tree({11: {"b": 1}}), 2: tree({22: {"a": 1}}), 3: tree({33: {"a": 1}})}
    assert found({"a": [1], "b": [2], "c": [3]}, trees) == (22, "a", 1)


def test_nobody_while_one_of_them_works_or_a_slot_is_free() -> None:
    holders = {"a": [1], "b": [2]}
    one = tree({11: {"b": 1}})
    assert found(holders, {1: one, 2: tree({22: {"a": 1}}, goes_on=True)}) is None
    assert found(holders, {1: one, 2: tree({22: {"a": 2}})}) is None, "a has two slots"
    assert found({"a": [1]}, {1: one}) is None, "the slot of b is given back"
    two = tree({22: {"a": 1}})
    assert found({"a": [1], "b": [2, 3]}, {1: tree({11: {"b": 2}}), 2: two}) is None
    assert found(holders, {1: one, 2: tree({22: {"a": 1}, 23: {"c": 1}})}) is None
    assert found({}, {}) is None


def test_all_who_have_slots_of_a_key_must_be_stuck() -> None:
    first, second = tree({11: {"b": 2}}), tree({22: {"a": 1}})
    holders = {"a": [1], "b": [2, 3]}
    assert found(holders, {1: first, 2: second, 3: tree({33: {"a": 1}})}) is not None
    assert found(holders, {1: first, 2: second, 3: tree({}, goes_on=True)}) is None


RUNS, KEYS = range(1, 5), "abc"
_WAITING = st.dictionaries(
    st.integers(10, 14),
    st.dictionaries(st.sampled_from(KEYS), st.integers(1, 2), min_size=1, max_size=2),
    max_size=2,
)
_TREES = st.fixed_dictionaries(
    {run: st.builds(lambda waiting, on: (waiting, on), _WAITING, st.booleans()) for run in RUNS}
)
_HOLDERS = st.dictionaries(
    st.sampled_from(KEYS), st.lists(st.sampled_from(RUNS), min_size=1, max_size=3, unique=True)
)


@given(_HOLDERS, _TREES)
def test_a_deadlock_is_found_if_some_can_never_end(
    holders: dict[str, list[int]], drawn: dict[int, tuple[dict[int, dict[str, int]], bool]]
) -> None:
    """Let runs end in any order, each once what it needs is free, until no more can."""
    trees = {run: tree(waiting, goes_on=on) for run, (waiting, on) in drawn.items()}
    ended: set[int] = set()
    for _ in product(RUNS, RUNS):
        for run, (waiting, on) in drawn.items():
            if on or not waiting:
                ended.add(run)
            for keys in waiting.values():
                if all(
                    name not in holders or len(set(holders[name]) - ended) < most
                    for name, most in keys.items()
                ):
                    ended.add(run)
    having = {run for runs in holders.values() for run in runs}
    assert (found(holders, trees) is not None) == bool(set(RUNS) - ended), (having, ended)
