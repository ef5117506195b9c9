"""What coroutine agents may do to the worker they run in, as data.

Each misuse runs as an attempt of the agent `misuse`; `MISUSES` says what must come of it. Waiting
agents sleep for minutes: nothing but the misuse itself may end them.
"""

import asyncio
import concurrent.futures
import contextlib
import ctypes
import gc
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

import celeriac
from celeriac.kit.loop import LoopThread
from tests.support.misuse_errors import RAISED, OwnBaseError, SlowTextError

if TYPE_CHECKING:
    from celeriac import AgentContext

_MINUTES = 600.0
_KEPT: list[object] = []
"""What must not be collected before the attempt has ended."""


@dataclass(frozen=True, slots=True)
class Misuse:
    """What an agent does, and what its execution must end as."""

    do: Callable[["AgentContext"], Awaitable[Any]]
    code: str | None
    """The error code; None where the execution completes all the same."""
    permanent: bool = False
    """Whether no retry may follow."""
    blocks: bool = False
    """Ends at its hard limit only, which is short then."""
    says: str = ""
    """A part of the error message."""


def raising(error: Callable[[], BaseException]) -> Callable[["AgentContext"], Awaitable[Any]]:
    async def do(_: "AgentContext") -> None:
        raise error()

    return do


# what it leaves running


async def leave_tasks(_: "AgentContext") -> str:
    _KEPT.extend(asyncio.create_task(asyncio.sleep(_MINUTES)) for _ in range(100))
    return "left"


async def leave_deaf_task(_: "AgentContext") -> str:
    """Leave a task that swallows every cancellation."""

    async def deaf() -> None:
        while True:
            with contextlib.suppress(BaseException):
                await asyncio.sleep(_MINUTES)

    _KEPT.append(asyncio.create_task(deaf()))
    await asyncio.sleep(0)
    return "left"


async def leave_raising_task(_: "AgentContext") -> None:
    async def leave() -> None:
        sys.exit(6)

    _KEPT.append(asyncio.create_task(leave()))
    await asyncio.sleep(_MINUTES)


async def leave_timers(_: "AgentContext") -> str:
    loop = asyncio.get_running_loop()
    for delay in (0.0, 0.01, 0.5):
        loop.call_later(delay, sys.exit, 7)
        loop.call_later(delay, _raise_own)
    return "left"


async def timer_that_exits(_: "AgentContext") -> None:
    asyncio.get_running_loop().call_later(0.01, sys.exit, 8)
    await asyncio.sleep(_MINUTES)


async def timer_that_raises(_: "AgentContext") -> str:
    asyncio.get_running_loop().call_soon(_raise_own)
    await asyncio.sleep(0.05)
    return "went on"


def _raise_own() -> NoReturn:
    raise OwnBaseError("from a callback")


async def leave_thread(_: "AgentContext") -> str:
    """Leave a thread that has the loop exit once the attempt is over."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None

    def call() -> None:
        while not task.done():
            time.sleep(0.001)
        with contextlib.suppress(RuntimeError):
            while True:
                loop.call_soon_threadsafe(sys.exit, 9)
                time.sleep(0.01)

    threading.Thread(target=call, daemon=True).start()
    return "left"


async def leave_generator(_: "AgentContext") -> int:
    async def numbers() -> AsyncIterator[int]:
        try:
            while True:
                yield 1
        finally:
            await asyncio.sleep(_MINUTES)

    generator = numbers()
    _KEPT.append(generator)
    return await anext(generator)


async def leave_process(_: "AgentContext") -> str:
    process = await asyncio.create_subprocess_exec(
        "sleep", "600", stdout=asyncio.subprocess.PIPE, stdin=asyncio.subprocess.PIPE
    )
    _KEPT.append(process)
    return "left"


async def leave_callback_storm(_: "AgentContext") -> str:
    loop = asyncio.get_running_loop()

    def again() -> None:
        loop.call_soon(again)

    again()
    return "left"


# what it does to its loop and executors


async def stop_loop(_: "AgentContext") -> None:
    asyncio.get_running_loop().stop()
    await asyncio.sleep(_MINUTES)


async def close_loop(_: "AgentContext") -> None:
    asyncio.get_running_loop().close()


async def stop_and_close_loop(_: "AgentContext") -> None:
    """Have another thread close it once it has stopped."""
    loop = asyncio.get_running_loop()

    def close() -> None:
        while not loop.is_closed():
            with contextlib.suppress(RuntimeError):
                loop.close()

    threading.Thread(target=close, daemon=True).start()
    loop.stop()
    await asyncio.sleep(_MINUTES)


async def bring_executor(_: "AgentContext") -> str:
    """Put an executor without threads to spare in the place of the loop's own."""
    executor = concurrent.futures.ThreadPoolExecutor(1)
    executor.submit(time.sleep, 5)
    asyncio.get_running_loop().set_default_executor(executor)
    return "brought"


async def shut_executor(_: "AgentContext") -> str:
    await asyncio.get_running_loop().shutdown_default_executor()
    return "shut"


async def flood_executor(_: "AgentContext") -> None:
    sleeps = [asyncio.to_thread(time.sleep, 20) for _ in range(200)]
    await asyncio.gather(*sleeps, _in_a_moment())


async def _in_a_moment() -> NoReturn:
    await asyncio.sleep(0.1)
    raise LookupError("after the flood")


async def break_handlers(_: "AgentContext") -> None:
    """Have every hook of the loop raise, and give it reason to call them."""
    loop = asyncio.get_running_loop()

    def refuse(*_: Any, **__: Any) -> NoReturn:
        sys.exit(10)

    loop.set_exception_handler(refuse)
    loop.set_debug(True)
    loop.slow_callback_duration = 0.0
    loop.call_soon(_raise_own)
    await asyncio.sleep(_MINUTES)


async def break_factory(_: "AgentContext") -> None:
    def refuse(*_: Any, **__: Any) -> NoReturn:
        sys.exit(11)

    asyncio.get_running_loop().set_task_factory(refuse)
    await asyncio.create_task(asyncio.sleep(0))


async def cancel_all(_: "AgentContext") -> None:
    for task in asyncio.all_tasks():
        task.cancel()
    await asyncio.sleep(_MINUTES)


async def cancel_itself(_: "AgentContext") -> None:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    await asyncio.sleep(_MINUTES)


async def forget_loop(_: "AgentContext") -> str:
    asyncio.set_event_loop(None)
    return "forgotten"


async def nest_loop(_: "AgentContext") -> None:
    work = asyncio.sleep(0)
    try:
        asyncio.get_running_loop().run_until_complete(work)
    finally:
        work.close()


async def nest_run(_: "AgentContext") -> None:
    work = asyncio.sleep(0)
    try:
        asyncio.run(work)
    finally:
        work.close()


async def handle_signals(_: "AgentContext") -> None:
    asyncio.get_running_loop().add_signal_handler(15, _raise_own)


async def recurse(_: "AgentContext") -> None:
    def deeper() -> None:
        deeper()

    deeper()


async def block(_: "AgentContext") -> None:
    time.sleep(30)  # noqa: ASYNC251 - what this is about


async def spin(_: "AgentContext") -> None:
    while True:
        pass


async def spin_deaf(_: "AgentContext") -> None:
    """Keep the processor busy and catch what can be caught."""
    while True:
        with contextlib.suppress(Exception):
            sum(range(1000))


async def ignore_cancellation(_: "AgentContext") -> None:
    while True:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(_MINUTES)


_FAILED = "agent_failed"

MISUSES: dict[str, Misuse] = {
    "SystemExit": Misuse(raising(RAISED["SystemExit"]), "agent_failed_permanently", permanent=True),
    "KeyboardInterrupt": Misuse(
        raising(RAISED["KeyboardInterrupt"]), "agent_failed_permanently", permanent=True
    ),
    "GeneratorExit": Misuse(raising(RAISED["GeneratorExit"]), _FAILED, says="GeneratorExit"),
    "own BaseException": Misuse(raising(RAISED["own BaseException"]), _FAILED, says="own"),
    "StopIteration": Misuse(raising(RAISED["StopIteration"]), _FAILED, says="StopIteration"),
    "StopAsyncIteration": Misuse(raising(RAISED["StopAsyncIteration"]), _FAILED),
    "CancelledError": Misuse(raising(RAISED["CancelledError"]), _FAILED, says="cancelled itself"),
    "own CancelledError": Misuse(
        raising(RAISED["own CancelledError"]), _FAILED, says="cancelled itself"
    ),
    "group": Misuse(raising(RAISED["group"]), _FAILED),
    "group with SystemExit": Misuse(raising(RAISED["group with SystemExit"]), _FAILED),
    "group in groups": Misuse(raising(RAISED["group in groups"]), _FAILED),
    "long chain": Misuse(raising(RAISED["long chain"]), _FAILED, says="number 19999"),
    "no text": Misuse(raising(RAISED["no text"]), _FAILED, says="UnspeakableError"),
    "text of another type": Misuse(
        raising(RAISED["text of another type"]), _FAILED, says="NoTextError"
    ),
    "text with hostile methods": Misuse(
        raising(RAISED["text with hostile methods"]), _FAILED, says="hostile"
    ),
    "text that takes for ever": Misuse(raising(SlowTextError), "hard_time_limit", blocks=True),
    "huge text": Misuse(raising(RAISED["huge text"]), _FAILED, says="xxx"),
    "hostile attributes": Misuse(raising(RAISED["hostile attributes"]), _FAILED),
    "odd attributes": Misuse(
        raising(RAISED["odd attributes"]), "agent_failed_permanently", permanent=True
    ),
    "unstorable details": Misuse(
        raising(RAISED["unstorable details"]), "shop_closed", says="closed"
    ),
    "hostile class": Misuse(raising(RAISED["hostile class"]), _FAILED),
    "leaves tasks": Misuse(leave_tasks, None),
    "leaves a deaf task": Misuse(leave_deaf_task, None),
    "a task exits": Misuse(leave_raising_task, "event_loop_ended", says="SystemExit"),
    "leaves timers": Misuse(leave_timers, None),
    "a timer exits": Misuse(timer_that_exits, "event_loop_ended", says="SystemExit"),
    "a callback raises": Misuse(timer_that_raises, None),
    "leaves a thread": Misuse(leave_thread, None),
    "leaves a generator": Misuse(leave_generator, None),
    "leaves a process": Misuse(leave_process, None),
    "leaves a storm of callbacks": Misuse(leave_callback_storm, None),
    "stops the loop": Misuse(stop_loop, "event_loop_ended"),
    "closes the loop": Misuse(close_loop, _FAILED),
    "stops and closes the loop": Misuse(stop_and_close_loop, "event_loop_ended"),
    "brings an executor": Misuse(bring_executor, None),
    "shuts the executor": Misuse(shut_executor, None),
    "floods the executor": Misuse(flood_executor, _FAILED, says="after the flood"),
    "breaks the handlers": Misuse(break_handlers, "event_loop_ended"),
    "breaks the task factory": Misuse(break_factory, "agent_failed_permanently", permanent=True),
    "cancels all tasks": Misuse(cancel_all, _FAILED, says="cancelled itself"),
    "cancels itself": Misuse(cancel_itself, _FAILED, says="cancelled itself"),
    "forgets the loop": Misuse(forget_loop, None),
    "nests run_until_complete": Misuse(nest_loop, _FAILED),
    "nests asyncio.run": Misuse(nest_run, _FAILED),
    "handles signals": Misuse(handle_signals, _FAILED),
    "recurses": Misuse(recurse, _FAILED, says="recursion"),
    "blocks": Misuse(block, "hard_time_limit", blocks=True),
    "spins": Misuse(spin, "hard_time_limit", blocks=True),
    "spins and catches": Misuse(spin_deaf, "hard_time_limit", blocks=True),
    "ignores cancellation": Misuse(ignore_cancellation, "hard_time_limit", blocks=True),
}


@celeriac.agent("misuse")
async def misuse(ctx: "AgentContext", how: str) -> Any:
    """Misuse the worker."""
    return await MISUSES[how].do(ctx)


# the loop that all other runners share: no agent is given it, but something may go wrong there


def _stop(loop: asyncio.AbstractEventLoop) -> None:
    loop.call_soon_threadsafe(loop.stop)


def _exit(loop: asyncio.AbstractEventLoop) -> None:
    loop.call_soon_threadsafe(sys.exit, 12)


def _close(loop: asyncio.AbstractEventLoop) -> None:
    _stop(loop)
    while not loop.is_closed():
        with contextlib.suppress(RuntimeError):
            loop.close()


def _kill(loop: asyncio.AbstractEventLoop) -> None:
    """Have the loop's thread raise, wherever it is."""
    thread = next(each for each in threading.enumerate() if each.name == "agents")
    number = ctypes.c_ulong(thread.ident or 0)
    ctypes.pythonapi.PyThreadState_SetAsyncExc(number, ctypes.py_object(SystemExit))
    loop.call_soon_threadsafe(lambda: None)


LOOP_ENDS: dict[str, Callable[[asyncio.AbstractEventLoop], None]] = {
    "stopped": _stop,
    "SystemExit in a callback": _exit,
    "stopped and closed": _close,
    "thread killed": _kill,
}


@celeriac.agent("end the shared loop")
async def end_shared_loop(how: str) -> None:
    """End the loop of this process's other runners."""
    gc.unfreeze()  # what a worker has frozen is not among the objects otherwise
    (shared,) = [each for each in gc.get_objects() if type(each) is LoopThread]
    LOOP_ENDS[how](shared.loop)
