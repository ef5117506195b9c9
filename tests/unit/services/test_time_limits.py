"""An attempt's time limits, which stand still while it waits for a person."""

import asyncio
import threading
import time

from celeriac.domain.tasks import Limits
from celeriac.services.time_limits import TimeLimits
from tests.support.waiting import wait_until

SHORT = Limits(soft_seconds=0.3, hard_seconds=0.5)


def test_the_time_goes_on_with_what_was_left() -> None:
    limits = TimeLimits()
    limits.begin(SHORT)
    first, second = limits.pause(), limits.pause()
    left = limits.hard_left
    until = time.monotonic() + SHORT.hard_seconds
    wait_until(lambda: time.monotonic() > until, "longer than the limit")

    first()
    first()
    paused = limits.paused
    assert paused, "the other question is open"
    assert limits.hard_left == left
    second()

    assert not limits.paused
    assert not limits.wait(lambda seconds: threading.Event().wait(seconds)), "it ends after all"


def test_the_soft_limit_ends_a_block_only_in_the_attempts_own_time() -> None:
    async def run() -> bool:
        limits = TimeLimits()
        limits.begin(SHORT)
        go_on = limits.pause()
        asyncio.get_running_loop().call_later(SHORT.hard_seconds, go_on)
        began = time.monotonic()
        try:
            async with limits.soft():
                await asyncio.Event().wait()
        except TimeoutError:
            return limits.soft_passed and time.monotonic() - began > SHORT.hard_seconds
        return False

    assert asyncio.run(run())
