"""The event loop on a thread of its own."""

import asyncio
import contextlib
import ctypes
import gc
import sys
import threading
from collections.abc import Iterator
from typing import NoReturn

import pytest

from celeriac.kit.event_loop import EventLoop
from celeriac.kit.loop import AbandonedError, LoopEndedError, LoopThread
from celeriac.kit.threads import FILES, PROCESSES
from tests.support.scarcity import LACKS, count_open_loops
from tests.support.waiting import wait_until


@pytest.fixture
def loop() -> Iterator[LoopThread]:
    before = count_open_loops()
    thread = LoopThread("test")
    yield thread
    thread.close(1)
    wait_until(lambda: count_open_loops() <= before, "the test's event loops are closed")


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
    with pytest.raises(AbandonedError):
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


def _stop(loop: asyncio.AbstractEventLoop) -> None:
    loop.call_soon_threadsafe(loop.stop)


def _exit_in_callback(loop: asyncio.AbstractEventLoop) -> None:
    loop.call_soon_threadsafe(sys.exit, 1)


def _stop_and_close(loop: asyncio.AbstractEventLoop) -> None:
    def closed() -> bool:
        with contextlib.suppress(RuntimeError):  # it runs
            loop.close()
        return loop.is_closed()

    _stop(loop)
    wait_until(closed, "the loop is closed")


def _kill_thread(loop: asyncio.AbstractEventLoop) -> None:
    """Have the loop's thread raise, wherever it is."""
    thread = next(each for each in threading.enumerate() if each.name == "test")
    number = ctypes.c_ulong(thread.ident or 0)
    ctypes.pythonapi.PyThreadState_SetAsyncExc(number, ctypes.py_object(SystemExit))
    loop.call_soon_threadsafe(lambda: None)


ENDS = {each.__name__: each for each in (_stop, _exit_in_callback, _stop_and_close, _kill_thread)}


@pytest.mark.parametrize("how", ENDS)
def test_a_loop_that_ends_is_replaced_and_ends_at_once_what_ran_on_it(
    loop: LoopThread, how: str
) -> None:
    cleaned = threading.Event()

    async def work() -> None:
        try:
            await asyncio.sleep(600)
        finally:
            cleaned.set()

    async def answer() -> str:
        await asyncio.sleep(0)
        return "alive"

    running = [loop.start(work()) for _ in range(3)]
    assert loop.start(answer()).result() == "alive"
    first = loop.loop
    ENDS[how](first)
    for each in running:
        assert each.wait(10), "it must not hang"
        with pytest.raises(LoopEndedError):
            each.result()
    assert loop.start(answer()).result() == "alive"
    assert loop.loop is not first
    assert cleaned.wait(10), "what was left is cancelled"
    wait_until(first.is_closed, "the loop is closed")


def test_a_loop_that_is_closed_can_not_be_entered_meanwhile() -> None:
    """asyncio looks twice whether a loop runs, and closes a part of it between the two."""
    loop, inside = EventLoop(), threading.Event()
    looked: list[bool] = []
    seen = loop.is_running

    def enter() -> None:
        with contextlib.suppress(RuntimeError):  # it is closed
            loop.call_soon(inside.set)
            loop.call_soon(loop.stop)
            loop.run_forever()

    entering = threading.Thread(target=enter)

    def is_running() -> bool:
        if threading.current_thread() is not entering:
            looked.append(seen())
            if len(looked) == 2:
                entering.start()
                inside.wait(0.3)
        return seen()

    loop.is_running = is_running  # type: ignore[method-assign]
    loop.close()
    entering.join(10)
    assert len(looked) >= 2, "it must have looked twice"
    assert not inside.is_set()
    assert loop.is_closed()


def test_a_running_loop_can_not_be_closed_and_runs_on() -> None:
    loop = EventLoop()

    async def close() -> None:
        loop.close()

    with pytest.raises(RuntimeError, match="can't be closed"):
        loop.run_until_complete(close())
    assert loop.run_until_complete(asyncio.sleep(0, "alive")) == "alive"
    loop.close()
    assert loop.is_closed()


def test_what_a_blocked_loop_held_up_ends_when_it_is_replaced(loop: LoopThread) -> None:
    blocking, release = threading.Event(), threading.Event()

    async def block() -> None:
        blocking.set()
        release.wait(30)

    waiting = loop.start(asyncio.sleep(600))
    loop.start(block())
    assert blocking.wait(5), "the coroutine must hold the loop"
    try:
        assert loop.renew()
        assert waiting.wait(5), "it must not wait for a loop that was given up"
    finally:
        release.set()
    with pytest.raises(LoopEndedError):
        waiting.result()


def test_name_resolution_waits_for_nobody_elses_threads(loop: LoopThread) -> None:
    async def resolve() -> bool:
        return bool(await asyncio.get_running_loop().getaddrinfo("127.0.0.1", 80))

    release = threading.Event()
    calls = [pool.submit(release.wait, 60) for pool in (FILES, PROCESSES) for _ in range(40)]
    try:
        resolving = loop.start(resolve())
        assert resolving.wait(20)
        assert resolving.result()
    finally:
        release.set()
        for call in calls:
            call.result()


def test_a_loop_that_can_not_be_replaced_now_is_replaced_by_the_next_start(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where no thread can be started, what ran ends all the same, and nothing hangs."""
    loops = LoopThread()
    begin = threading.Thread.start
    refused: list[str] = []

    def start(thread: threading.Thread) -> None:
        if thread.name == "agents" and len(refused) < 2:
            refused.append(thread.name)
            raise RuntimeError("can't start new thread")
        begin(thread)

    running = loops.start(asyncio.sleep(600))
    monkeypatch.setattr(threading.Thread, "start", start)
    loops.loop.call_soon_threadsafe(loops.loop.stop)
    assert running.wait(20)
    with pytest.raises(LoopEndedError):
        running.result()
    second = loops.start(asyncio.sleep(0))
    assert second.wait(20)
    with pytest.raises(LoopEndedError):
        second.result()
    third = loops.start(asyncio.sleep(0, "done"))
    assert third.wait(20)
    assert third.result() == "done"
    loops.close()


@pytest.mark.parametrize("what", LACKS)
@pytest.mark.filterwarnings("error")
def test_a_loop_is_replaced_as_soon_as_there_is_what_a_new_one_needs(
    loop: LoopThread, what: str
) -> None:
    running = loop.start(asyncio.sleep(600))
    assert loop.start(asyncio.sleep(0, "alive")).result() == "alive"
    first = loop.loop
    with LACKS[what]():
        first.call_soon_threadsafe(first.stop)
        assert running.wait(20), "it must not wait for a loop that has ended"
        second = loop.start(asyncio.sleep(0))
        assert second.wait(20), "nor what is started on none"
    for each in (running, second):
        with pytest.raises(LoopEndedError):
            each.result()
    gc.collect()  # so that what a half made loop leaves is found
    assert loop.start(asyncio.sleep(0, "back")).result() == "back"
    wait_until(first.is_closed, "the first loop is closed")


@pytest.mark.parametrize("what", LACKS)
def test_one_that_is_held_up_is_replaced_later_as_well(loop: LoopThread, what: str) -> None:
    blocking, release = threading.Event(), threading.Event()

    async def block() -> None:
        blocking.set()
        release.wait(30)

    held = loop.start(block())
    assert blocking.wait(5), "the coroutine must hold the loop"
    try:
        with LACKS[what]():
            assert loop.renew()
            assert held.wait(20)
        assert loop.start(asyncio.sleep(0, "back")).result() == "back"
    finally:
        release.set()


def test_an_error_that_can_not_be_told_ends_a_loop_like_others(loop: LoopThread) -> None:
    class Untold(SystemExit):
        def __repr__(self) -> str:
            raise LookupError("no words")

    def end() -> None:
        raise Untold

    running = loop.start(asyncio.sleep(600))
    loop.loop.call_soon_threadsafe(end)
    assert running.wait(20)
    with pytest.raises(LoopEndedError, match="Untold"):
        running.result()


def test_a_coroutine_that_can_not_be_started_is_given_up(loop: LoopThread) -> None:
    def refuse(*_: object, **__: object) -> NoReturn:
        raise MemoryError

    loop.loop.set_task_factory(refuse)
    running = loop.start(asyncio.sleep(600))
    assert running.wait(20), "nobody would ever end it"
    with pytest.raises(MemoryError):
        running.result()
    loop.loop.set_task_factory(None)
    assert loop.start(asyncio.sleep(0, "alive")).result() == "alive"
