"""The event loop on a thread of its own."""

import asyncio
import threading
from collections.abc import Iterator

import pytest

from celeriac.kit.loop import LeftBehindError, LoopThread


@pytest.fixture
def loop() -> Iterator[LoopThread]:
    thread = LoopThread("test")
    yield thread
    thread.close(1)


def test_a_result_and_an_error_come_back_to_the_caller(loop: LoopThread) -> None:
    async def add() -> int:
        return 1 + 1

    async def fail() -> None:
        raise LookupError("no such thing")

    assert loop.start(add()).result() == 2
    with pytest.raises(LookupError, match="no such thing"):
        loop.start(fail()).result()


def test_cancelling_waits_for_the_clean_up(loop: LoopThread) -> None:
    started, cleaned = threading.Event(), threading.Event()

    async def work() -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0.01)
            cleaned.set()

    running = loop.start(work())
    assert started.wait(5), "the coroutine must have begun"
    running.cancel(5)
    with pytest.raises(asyncio.CancelledError):
        running.result()
    assert cleaned.is_set(), "the result must not come before the coroutine has cleaned up"


def test_one_that_ignores_its_cancellation_is_left_behind(loop: LoopThread) -> None:
    async def stubborn() -> None:
        started.set()
        while True:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                if release.is_set():
                    raise

    started, release = threading.Event(), threading.Event()
    running = loop.start(stubborn())
    assert started.wait(5), "the coroutine must have begun"
    running.cancel(0.05)
    with pytest.raises(LeftBehindError):
        running.result()
    release.set()


def test_a_blocked_loop_is_replaced_and_a_live_one_is_kept(loop: LoopThread) -> None:
    blocking, release = threading.Event(), threading.Event()

    async def block() -> None:
        blocking.set()
        release.wait(30)

    async def answer() -> str:
        return "alive"

    assert not loop.renew(), "a loop that answers must stay"
    loop.start(block())
    assert blocking.wait(5), "the coroutine must hold the loop"
    try:
        assert loop.renew(), "a loop that doesn't answer must be replaced"
        assert loop.start(answer()).result() == "alive"
    finally:
        release.set()
