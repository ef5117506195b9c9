"""Pools of threads for blocking calls."""

import asyncio
import subprocess
import sys
import threading
from contextvars import ContextVar
from pathlib import Path

import pytest

from celeriac.kit.threads import Threads

WHO: ContextVar[str] = ContextVar("who", default="nobody")
REPOSITORY = Path(__file__).parents[3]


def test_results_errors_and_context_variables_come_through() -> None:
    pool = Threads("test", 2)

    def fail() -> None:
        raise SystemExit(3)

    async def work() -> str:
        WHO.set("me")
        with pytest.raises(SystemExit):
            await pool.run(fail)
        return await pool.run(WHO.get)

    assert asyncio.run(work()) == "me"


def test_there_are_no_more_threads_than_its_size_and_they_are_used_again() -> None:
    pool, release, most = Threads("test", 3), threading.Event(), threading.Semaphore(0)
    seen = set()

    def hold() -> None:
        seen.add(threading.get_ident())
        most.release()
        release.wait(30)

    calls = [pool.submit(hold) for _ in range(20)]
    assert all(most.acquire(timeout=10) for _ in range(3))
    assert not most.acquire(timeout=0.1), "a fourth call has begun"
    release.set()
    for call in calls:
        call.result(10)
    assert len(seen) == 3


def test_calls_that_wait_are_not_made_after_a_shutdown() -> None:
    pool, begun, release = Threads("test", 1), threading.Event(), threading.Event()

    def hold() -> bool:
        begun.set()
        return release.wait(30)

    first, second = pool.submit(hold), pool.submit(threading.get_ident)
    assert begun.wait(10)
    pool.shutdown(wait=False, cancel_futures=True)
    release.set()
    assert first.result(10)
    assert second.cancelled()
    with pytest.raises(RuntimeError, match="test is closed"):
        pool.submit(threading.get_ident)


def test_a_call_that_hangs_does_not_keep_its_process_from_ending() -> None:
    program = (
        "import threading; from celeriac.kit.threads import Threads; "
        "begun = threading.Event(); "
        "Threads('test', 1).submit(lambda: (begun.set(), threading.Event().wait())); begun.wait()"
    )
    ended = subprocess.run([sys.executable, "-c", program], timeout=60, cwd=REPOSITORY, check=False)
    assert ended.returncode == 0
