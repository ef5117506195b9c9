"""The restart policy, with a clock that the test moves."""

from collections.abc import Iterator

import pytest

from celeriac.embedded.home import Home
from celeriac.embedded.process import ManagedProcess
from celeriac.embedded.spec import ProcessSpec
from celeriac.embedded.supervised import RestartPolicy, State, Supervised

POLICY = RestartPolicy(first_delay=1, longest_delay=4, stable_after=30)


@pytest.fixture
def supervised(home: Home) -> Iterator[Supervised]:
    spec = ProcessSpec(name="sleeper", argv=("sleep", "600"), env={"PATH": "/usr/bin:/bin"})
    each = Supervised(ManagedProcess(spec, home.log_file("sleeper")), POLICY, lambda _: None)
    each.start(now=0)
    each.step(now=0)
    assert each.state is State.READY
    yield each
    each.process.kill()


def die_and_return(each: Supervised, at: float, delay: float) -> float:
    """Kill it at that time, check the pause, and return the time when it serves again."""
    each.process.kill()
    back = at + delay
    states = [state_after_step(each, now) for now in (at, back - 0.01, back, back)]
    expected = [State.PAUSING, State.PAUSING, State.STARTING, State.READY]
    assert states == expected, f"it must wait for {delay} s, and no longer"
    return back


def state_after_step(each: Supervised, now: float) -> State:
    each.step(now)
    return each.state


def test_pauses_double_and_a_stable_time_wipes_the_sheet(supervised: Supervised) -> None:
    now = die_and_return(supervised, at=1, delay=1)
    now = die_and_return(supervised, at=now + 1, delay=2)
    now = die_and_return(supervised, at=now + 1, delay=4)
    now = die_and_return(supervised, at=now + POLICY.stable_after, delay=1)
    now = die_and_return(supervised, at=now + POLICY.stable_after - 1, delay=2)
    for _ in range(100):
        now = die_and_return(supervised, at=now + 1, delay=4)


def test_the_longest_pause_bounds_the_doubling() -> None:
    assert [POLICY.delay(deaths) for deaths in (1, 2, 3, 4, 5, 5000)] == [1, 2, 4, 4, 4, 4]
