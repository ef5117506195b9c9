"""Event loops for one coroutine each."""

import asyncio
import contextlib
import gc
import os
import queue
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar

import pytest

from celeriac.kit.event_loop import EventLoop
from celeriac.kit.loop import AbandonedError, LoopEndedError
from celeriac.kit.own_loops import OwnLoops
from celeriac.kit.processes import identify, still_running
from tests.support.scarcity import LACKS, count_open_loops
from tests.support.waiting import wait_until

WHO: ContextVar[str] = ContextVar("who", default="nobody")


@pytest.fixture
def loops() -> Iterator[OwnLoops]:
    before = count_open_loops()
    made = OwnLoops("own-loops-test")
    yield made
    made.close()
    wait_until(lambda: count_open_loops() <= before, "the test's event loops are closed")


async def where() -> tuple[int, int]:
    return threading.get_ident(), id(asyncio.get_running_loop())


def test_a_clean_thread_is_used_again_and_a_loop_never(loops: OwnLoops) -> None:
    async def loop() -> asyncio.AbstractEventLoop:
        return asyncio.get_running_loop()

    used = []
    for _ in range(5):
        used.append(loops.start(loop()).result())
        wait_until(lambda: len(loops._idle) == 1, "the thread is idle")
    threads = {thread for thread in threading.enumerate() if thread.name == "own-loops-test"}
    assert len({id(each) for each in used}) == 5
    assert len(threads) == 1
    assert all(each.is_closed() for each in used)


def test_a_thread_that_is_not_as_it_was_is_not_used_again(loops: OwnLoops) -> None:
    async def leave_task() -> int:
        task = asyncio.ensure_future(asyncio.sleep(600))
        await asyncio.sleep(0)
        assert not task.done()
        return threading.get_ident()

    async def leave_profiler() -> int:
        sys.setprofile(lambda *_: None)
        return threading.get_ident()

    for work in (leave_task(), leave_profiler()):
        loops.start(work).result()
        wait_until(
            lambda: not [each for each in threading.enumerate() if each.name == "test"],
            "the thread has ended",
        )


def test_context_variables_come_from_the_caller_and_go_nowhere(loops: OwnLoops) -> None:
    async def who() -> str:
        seen = WHO.get()
        WHO.set("somebody else")
        return seen

    token = WHO.set("me")
    assert [loops.start(who()).result() for _ in range(2)] == ["me", "me"]
    WHO.reset(token)
    assert loops.start(who()).result() == "nobody"


def test_all_run_at_the_same_time_and_leave_no_descriptor(loops: OwnLoops) -> None:
    together = threading.Barrier(50)

    async def meet() -> None:
        together.wait(30)

    loops.start(asyncio.sleep(0)).result()
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - names are all we need
    for each in [loops.start(meet()) for _ in range(50)]:
        each.result()
    wait_until(
        lambda: len(os.listdir("/proc/self/fd")) <= before,  # noqa: PTH208
        "all loops are closed",
    )


def test_what_is_left_is_ended(loops: OwnLoops) -> None:
    ended: list[str] = []

    async def task() -> None:
        try:
            await asyncio.sleep(600)
        finally:
            await asyncio.sleep(0.01)
            ended.append("task")

    async def leave() -> int:
        left = asyncio.ensure_future(task())
        process = await asyncio.create_subprocess_exec("sleep", "600")
        await asyncio.sleep(0)
        assert not left.done()
        return process.pid

    pid = loops.start(leave()).result()
    found = identify(pid)
    assert ended == ["task"]
    assert found is None or not still_running(found)


def test_an_executor_that_users_share_outlives_the_loop(loops: OwnLoops) -> None:
    async def use() -> int:
        loop = asyncio.get_running_loop()
        loop.set_default_executor(shared)
        return await loop.run_in_executor(None, threading.get_ident)

    with ThreadPoolExecutor(1) as shared:
        assert len({loops.start(use()).result() for _ in range(3)}) == 1


def test_an_executor_of_its_own_makes_no_more_calls(loops: OwnLoops) -> None:
    release = threading.Event()
    made: list[int] = []

    def call(number: int) -> None:
        release.wait(30)
        made.append(number)

    async def flood() -> None:
        loop = asyncio.get_running_loop()
        for number in range(100):
            loop.run_in_executor(None, call, number)

    loops.start(flood()).result()
    release.set()
    wait_until(
        lambda: not [each for each in threading.enumerate() if "executor" in each.name],
        "the executor's threads have ended",
    )
    assert len(made) < 20, "those that waited are not called any more"


def test_a_loop_that_ends_early_ends_its_coroutine(loops: OwnLoops) -> None:
    async def stop() -> None:
        asyncio.get_running_loop().stop()
        await asyncio.sleep(600)

    with pytest.raises(LoopEndedError):
        loops.start(stop()).result()


def test_busy_code_that_was_given_up_is_interrupted(loops: OwnLoops) -> None:
    begun, interrupted = threading.Event(), threading.Event()

    async def spin() -> None:
        begun.set()
        try:
            while True:
                with contextlib.suppress(Exception):
                    sum(range(100))
        finally:
            interrupted.set()

    running = loops.start(spin())
    assert begun.wait(10)
    running.cancel(0.05)
    with pytest.raises(AbandonedError):
        running.result()
    assert interrupted.wait(10), "it would keep the processor busy for ever"


def test_a_cancellation_before_the_start_holds(loops: OwnLoops) -> None:
    async def never() -> None:
        await asyncio.sleep(600)

    running = loops.start(never())
    running.cancel(5)
    with pytest.raises(asyncio.CancelledError):
        running.result()


def test_the_policy_of_asyncio_is_not_asked(
    loops: OwnLoops, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse() -> EventLoop:
        raise SystemExit(1)

    monkeypatch.setattr(asyncio.DefaultEventLoopPolicy, "new_event_loop", refuse)
    assert loops.start(where()).result()


def test_work_that_blocks_after_its_end_holds_up_nobody(loops: OwnLoops) -> None:
    release = threading.Event()

    async def leave() -> str:
        async def block() -> None:
            try:
                await asyncio.sleep(600)
            finally:
                release.wait(60)

        left = asyncio.ensure_future(block())
        await asyncio.sleep(0)
        assert not left.done()
        return "done"

    begin = time.monotonic()
    try:
        assert loops.start(leave()).result() == "done"
        assert time.monotonic() - begin < 30, "it waited for what blocks"
    finally:
        release.set()


@pytest.mark.parametrize("what", LACKS)
@pytest.mark.parametrize("idle", [True, False], ids=["a used thread", "a new thread"])
@pytest.mark.filterwarnings("error")
def test_where_a_loop_can_not_wait_its_coroutine_ends_and_the_next_runs(
    loops: OwnLoops, what: str, idle: bool
) -> None:
    before = count_open_loops()
    if idle:
        assert loops.start(where()).result()
        wait_until(lambda: count_open_loops() <= before, "the first loop is closed")
    with LACKS[what]():
        running = loops.start(asyncio.sleep(600))
        assert running.wait(20), "nobody would ever end it"
        assert loops.start(where()).result(), "what waits for nothing needs nothing"
    with pytest.raises(LoopEndedError, match="could not wait"):
        running.result()
    gc.collect()  # so that a coroutine that was never closed is found
    assert loops.start(asyncio.sleep(0.01, "next")).result() == "next"


def test_what_another_thread_calls_before_the_first_wait_wakes_it(loops: OwnLoops) -> None:
    """The loop opens its pipe when it first waits, just as the other thread may write to it."""
    calls: queue.SimpleQueue[tuple[asyncio.AbstractEventLoop, asyncio.Future[None]] | None]
    calls = queue.SimpleQueue()

    def call() -> None:
        for loop, future in iter(calls.get, None):
            loop.call_soon_threadsafe(future.set_result, None)

    async def called() -> str:
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        calls.put((loop, future))
        await future
        return "called"

    caller = threading.Thread(target=call, daemon=True)
    caller.start()
    for _ in range(2000):
        running = loops.start(called())
        assert running.wait(20), "the call was lost"
        assert running.result() == "called"
    calls.put(None)


@pytest.mark.parametrize("error", [RuntimeError("can't start new thread"), MemoryError()])
def test_where_no_thread_can_be_started_it_ends_as_well(
    loops: OwnLoops, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def refuse(_: threading.Thread) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        running = loops.start(where())
    with pytest.raises(LoopEndedError, match="No event loop can be made now"):
        running.result()
    assert loops.start(where()).result()
