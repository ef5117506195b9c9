"""The restart policy, with a clock that the test moves."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from celeriac.embedded.home import Home
from celeriac.embedded.process import ManagedProcess, ProcessSpec
from celeriac.embedded.supervisor import RestartPolicy, State, Supervised
from celeriac.kit.backoff import grown
from tests.support.waiting import wait_until

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
    delays = [grown(POLICY.first_delay, n, POLICY.longest_delay) for n in (0, 1, 2, 3, 4, 5000)]
    assert delays == [1, 2, 4, 4, 4, 4]


def test_one_that_ends_as_it_was_asked_is_back_after_the_shortest_pause(home: Home) -> None:
    """A worker asks itself to end when its code has changed, as often as somebody saves a file."""
    program = "trap 'exit 0' TERM; while :; do sleep 0.1; done"
    spec = ProcessSpec(name="asked", argv=("sh", "-c", program), env={"PATH": "/usr/bin:/bin"})
    each = Supervised(ManagedProcess(spec, home.log_file("asked")), POLICY, lambda _: None)
    each.start(now=0)
    now = 0.0
    try:
        for _ in range(5):
            assert state_after_step(each, now) is State.READY
            _end_by_sigterm(each)
            assert state_after_step(each, now + 1) is State.PAUSING
            assert state_after_step(each, now + 2) is State.STARTING
            now += 2
    finally:
        each.process.kill()


def _end_by_sigterm(each: Supervised) -> None:
    """Ask until it has set its trap: before, SIGTERM ends it otherwise."""

    def ended() -> bool:
        each.process.request_stop()
        return each.process.pid is None

    wait_until(lambda: "trap" in _state(each), "the shell has set its trap")
    wait_until(ended, "it has ended")
    assert each.process.exit_code == 0


def _state(each: Supervised) -> str:
    """Return `trap` once the shell catches SIGTERM."""
    status = Path(f"/proc/{each.process.pid}/status").read_text()
    caught = next(line for line in status.splitlines() if line.startswith("SigCgt:"))
    return "trap" if int(caught.split()[1], 16) >> (signal.SIGTERM - 1) & 1 else ""
