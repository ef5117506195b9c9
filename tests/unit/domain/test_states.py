"""The table of states."""

import pytest

from celeriac.domain.executions.states import (
    LIVE,
    TERMINAL,
    TRANSITIONS,
    Status,
    Transition,
)

pytestmark = pytest.mark.requirement("A4")


def test_every_transition_is_in_the_table() -> None:
    assert set(TRANSITIONS) == set(Transition)


def test_what_has_ended_is_left_by_no_transition() -> None:
    assert {source for sources, _ in TRANSITIONS.values() for source in sources} == LIVE
    assert all(status.terminal == (status in TERMINAL) for status in Status)
    assert not any(sources & TERMINAL for sources, _ in TRANSITIONS.values())


def test_every_state_can_be_reached_and_can_end() -> None:
    assert _reachable({Status.PENDING}) == set(Status)
    for status in LIVE:
        assert _reachable({status}) >= TERMINAL, f"{status} can't come to every end"


def test_only_a_running_execution_completes() -> None:
    assert _sources(Status.COMPLETED) == {Status.RUNNING}
    assert _sources(Status.RUNNING) == {Status.QUEUED}


def _sources(target: Status) -> set[Status]:
    return {source for sources, end in TRANSITIONS.values() if end is target for source in sources}


def _reachable(states: set[Status]) -> set[Status]:
    while True:
        more = states | {target for sources, target in TRANSITIONS.values() if sources & states}
        if more == states:
            return states
        states = more
