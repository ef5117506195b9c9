"""Waiting for conditions with a deadline instead of a sleep."""

import time
from collections.abc import Callable

_FIRST_PAUSE_SECONDS = 0.02
_LONGEST_PAUSE_SECONDS = 0.1
"""Most conditions ask a server: who waits long asks less often, and leaves it to those at work."""


def wait_until(condition: Callable[[], object], what: str, *, within: float = 45.0) -> None:
    """Return once `condition()` is true; fail the test after `within` seconds, naming `what`."""
    deadline = time.monotonic() + within
    pause = _FIRST_PAUSE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"after {within:.0f} s still not so: {what}"
        time.sleep(pause)
        pause = min(1.25 * pause, _LONGEST_PAUSE_SECONDS)
