"""The thread that looks for answers goes on, whatever it meets."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import Connection

from celeriac.db.engine import Database
from celeriac.domain.approvals import Answer
from celeriac.services.approvals.ask import Questions
from tests.support.asking import a_question
from tests.support.core import Core
from tests.support.waiting import wait_until

pytestmark = pytest.mark.anyio


class FailingDatabase(Database):
    """Raises what it is told, as often as it is told, from the thread that looks for answers."""

    def __init__(self, database: Database, error: BaseException, times: int) -> None:
        self._database = database
        self.threads = database.threads
        self.error = error
        self.times = times

    @contextmanager
    def autocommit(self) -> Iterator[Connection]:
        if threading.current_thread().name == "answers" and self.times > 0:
            self.times -= 1
            raise self.error
        with self._database.autocommit() as connection:
            yield connection


async def _answered(core: Core, questions: Questions) -> Answer:
    """Ask, have it answered, and wait for the answer."""
    claim = core.running()
    asking = asyncio.ensure_future(questions.ask(claim.lease, a_question()))
    async with asyncio.timeout(30):
        await asyncio.to_thread(
            wait_until,
            lambda: "approval_asked" in core.event_types(claim.lease.execution_id),
            "it has asked",
        )
        core.answer(claim.lease.execution_id)
        return await asking


async def test_an_error_that_nobody_has_thought_of_does_not_end_it(core: Core) -> None:
    database = FailingDatabase(core.database, RuntimeError("never seen before"), times=2)

    answer = await _answered(core, Questions(database, core.live))

    assert answer.approved
    assert database.times == 0, "it has met the error"


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
async def test_one_that_has_died_is_replaced(core: Core) -> None:
    database = FailingDatabase(core.database, SystemExit(1), times=1)
    questions = Questions(database, core.live)
    others = set(threading.enumerate())  # one of an earlier test may still pause
    first = asyncio.ensure_future(questions.ask(core.running().lease, a_question()))
    try:
        await asyncio.to_thread(
            wait_until,
            lambda: (
                database.times == 0
                and not [
                    each
                    for each in threading.enumerate()
                    if each.name == "answers" and each not in others
                ]
            ),
            "the thread has died",
        )
        assert (await _answered(core, questions)).approved
    finally:
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)


async def test_one_that_could_not_be_started_is_started_for_the_next(
    core: Core, monkeypatch: pytest.MonkeyPatch
) -> None:
    questions = Questions(core.database, core.live)
    start = threading.Thread.start

    def refuse(thread: threading.Thread) -> Any:
        if thread.name == "answers":
            raise RuntimeError("can't start new thread")
        return start(thread)

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(RuntimeError, match="can't start"):
            await questions.ask(core.running().lease, a_question())
    assert (await _answered(core, questions)).approved
