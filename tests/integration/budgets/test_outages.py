"""A database that is away holds up nothing but the work that needs it."""

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from uuid import uuid4

import pytest
from structlog.testing import capture_logs

from celeriac.db.engine import Database
from celeriac.domain.agents import LlmAgent
from celeriac.domain.approvals import Question, QuestionKind
from celeriac.domain.budgets import Budget
from celeriac.domain.errors import DatabaseUnavailableError
from celeriac.domain.executions.model import Lease
from celeriac.domain.executions.options import RunOptions
from celeriac.domain.tasks import Limits
from celeriac.kit.threads import Threads
from celeriac.services.approvals.ask import Questions
from celeriac.services.budgets.admission import Admission
from celeriac.services.budgets.ledger import BudgetLedger, Used
from celeriac.services.cassettes import CassetteStore
from celeriac.services.executions.attempt import Attempt
from celeriac.services.executions.context import AttemptContext, AttemptServices
from celeriac.services.ports import Job, Runner
from celeriac.services.retrying import retry_until_stored_in, retry_while_unavailable
from celeriac.services.sessions import SessionStore
from tests.support.cassettes import recorded
from tests.support.memory import MemoryLiveEvents
from tests.support.spending import planned
from tests.support.waiting import wait_until

pytestmark = pytest.mark.anyio

_MANY = 64
"""More than any machine's default executor has threads."""

JOB = Job(
    execution_id=uuid4(),
    attempt=1,
    task_name="test",
    agent_name="tester",
    agent=LlmAgent(model="test/model"),
    prompt="Do it.",
    variables={},
    output_schema=None,
    limits=Limits(),
    budget=Budget(max_tokens=10),
)


def _refused_port() -> int:
    """Return a port of the loopback that nobody listens on."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        return int(unused.getsockname()[1])


@dataclass
class Process:
    """What a worker process has for its attempts, with a database that nobody answers for."""

    database: Database
    book: BudgetLedger
    context: AttemptContext
    lease: Lease


@pytest.fixture
def process(tmp_path: Path) -> Iterator[Process]:
    database = Database(f"postgresql://ada:x@127.0.0.1:{_refused_port()}/none", connections=2)
    live = MemoryLiveEvents()
    questions = Questions(database, live)
    book = BudgetLedger(database, questions, live)
    services = AttemptServices(
        admission=Admission(cast("Any", None), book),
        sessions=SessionStore(database),
        questions=questions,
        cassettes=CassetteStore(database),
        live=live,
        steps=cast("Any", None),
        files=cast("Any", None),
    )
    lease = Lease(JOB.execution_id, 1, uuid4())
    runner = cast("Runner", SimpleNamespace(name="llm", resumable=True))
    playing = replace(JOB, options=RunOptions(cassette_id=uuid4()))
    context = AttemptContext(
        Attempt(lease), playing, runner, services, workdir=tmp_path, correlation={}
    )
    yield Process(database, book, context, lease)
    database.close()


QUESTION = Question(key="mail", kind=QuestionKind.TOOL, title="May it be sent?")
NO_BUDGET = replace(JOB, budget=None)

WORK: dict[str, Callable[[Process], Awaitable[object]]] = {
    "reserve": lambda it: it.book.reserve(it.lease, JOB, planned(1), may_park=False),
    "look for budgets": lambda it: it.book.reserve(it.lease, NO_BUDGET, planned(1), may_park=False),
    "settle": lambda it: it.book.settle(JOB, uuid4(), Used(Decimal(1), 1)),
    "spend": lambda it: it.book.spend(it.lease, NO_BUDGET, Used(Decimal(1), 1)),
    "ask": lambda it: it.context.ask(QUESTION),
    "read answers": lambda it: it.context.answers(),
    "load a cassette": lambda it: it.context.cassette(),
    "record": lambda it: it.context.record([recorded("a", "b")], complete=True),
    "save a session": lambda it: it.context.save_session(external_id="x", state=None),
}


@pytest.mark.parametrize("what", WORK)
@pytest.mark.parametrize("cancelled", [False, True], ids=["waiting", "cancelled"])
async def test_waiting_for_it_holds_no_thread_that_others_need(
    process: Process, what: str, cancelled: bool
) -> None:
    loop = asyncio.get_running_loop()
    with capture_logs() as logs:
        calls = [asyncio.ensure_future(WORK[what](process)) for _ in range(_MANY)]
        await asyncio.to_thread(
            wait_until,
            lambda: len([each for each in logs if each["event"] == "database.unavailable"]) >= 2,
            "some have met the outage",
        )
    try:
        assert not [call for call in calls if call.done()], "all wait for the database"
        if cancelled:
            for call in calls:
                call.cancel()
        async with asyncio.timeout(20):
            assert await loop.getaddrinfo("127.0.0.1", 80), "names are resolved all the while"
            for _ in range(20):
                await process.database.threads.run(int)
        if not cancelled:
            assert not [call for call in calls if call.done()], "all still wait for the database"
    finally:
        for call in calls:
            call.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(*calls, return_exceptions=True)


async def test_what_must_be_done_is_tried_until_it_is_done_although_it_was_cancelled() -> None:
    pool, done, tries = Threads("test", 1), asyncio.Event(), 0
    loop = asyncio.get_running_loop()

    def book() -> None:
        nonlocal tries
        tries += 1
        if tries < 4:
            raise DatabaseUnavailableError("away")
        loop.call_soon_threadsafe(done.set)

    booking = asyncio.ensure_future(retry_until_stored_in(pool, book, seconds=60))
    await asyncio.to_thread(wait_until, lambda: tries, "it was tried")
    booking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await booking
    async with asyncio.timeout(20):
        await done.wait()
    await pool.run(int)
    assert tries == 4, "it is not done again after it was done"


async def test_a_thread_of_a_pool_is_not_held_by_waiting() -> None:
    """Who waits on one is told, not served: its pauses would hold up others."""

    def wait() -> None:
        retry_while_unavailable(int, seconds=1)

    with pytest.raises(RuntimeError, match="retry_statement"):
        await Threads("test", 1).run(wait)
