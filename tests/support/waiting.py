"""Waiting for something to become true, with a deadline instead of a sleep."""

import time
from collections.abc import Callable

_POLL_SECONDS = 0.02


def wait_until(condition: Callable[[], object], what: str, *, within: float = 45.0) -> None:
    """Return once `condition()` is true; fail the test after `within` seconds, naming `what`."""
    deadline = time.monotonic() + within
    while not condition():
        assert time.monotonic() < deadline, f"after {within:.0f} s still not so: {what}"
        time.sleep(_POLL_SECONDS)
