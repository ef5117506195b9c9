"""Correlation ids follow the work, and cross from process to process."""

import asyncio
import threading
from uuid import uuid4

from celeriac.logs import CORRELATION_IDS, bind, bound, correlation


def test_ids_are_bound_inside_and_gone_outside() -> None:
    execution_id = uuid4()
    with bind(request_id="r", execution_id=execution_id):
        with bind(session_id="s", request_id=None):
            assert correlation() == {
                "request_id": "r",
                "execution_id": str(execution_id),
                "session_id": "s",
            }
        assert "session_id" not in correlation()
    assert correlation() == {}


def test_an_inner_id_hides_the_outer_one_for_a_while() -> None:
    with bind(task_id="outer"):
        with bind(task_id="inner"):
            assert correlation() == {"task_id": "inner"}
        assert correlation() == {"task_id": "outer"}


def test_ids_survive_the_way_through_a_message() -> None:
    every = {key: f"{key}-1" for key in CORRELATION_IDS}
    with bound(every):
        assert correlation() == every
        assert list(correlation()) == list(CORRELATION_IDS)


def test_what_a_header_should_not_hold_is_left_out() -> None:
    header = {
        "request_id": "x" * 129,
        "user_id": 7,
        "task_id": "",
        "level": "evil",
        "session_id": "s",
    }
    with bound(header):
        assert correlation() == {"session_id": "s"}


def test_coroutines_started_on_a_loop_elsewhere_inherit_the_ids() -> None:
    async def ids() -> dict[str, str]:
        return correlation()

    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        with bind(execution_id="e"):
            future = asyncio.run_coroutine_threadsafe(ids(), loop)
        assert future.result(30) == {"execution_id": "e"}
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def test_concurrent_coroutines_keep_their_own_ids() -> None:
    async def work(name: str) -> dict[str, str]:
        with bind(execution_id=name):
            await asyncio.sleep(0)
            return correlation()

    async def both() -> list[dict[str, str]]:
        return list(await asyncio.gather(work("a"), work("b")))

    assert asyncio.run(both()) == [{"execution_id": "a"}, {"execution_id": "b"}]
