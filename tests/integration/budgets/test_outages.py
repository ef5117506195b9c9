"""A database that is away holds up nothing but the work that needs it."""

import asyncio
import contextlib
import socket
from decimal import Decimal
from uuid import uuid4

import pytest

from celeriac.adapters.memory import MemoryLiveEvents
from celeriac.db.engine import Database
from celeriac.domain.agent import LlmAgent
from celeriac.domain.budget import Budget
from celeriac.domain.execution import Lease
from celeriac.domain.task import Limits
from celeriac.services.budget_book import BudgetBook, Used
from celeriac.services.ports import Job
from celeriac.services.questions import Questions
from tests.support.spending import planned

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


async def test_waiting_for_it_holds_no_thread_that_others_need() -> None:
    database = Database(f"postgresql://ada:x@127.0.0.1:{_refused_port()}/none", connections=4)
    live = MemoryLiveEvents()
    book = BudgetBook(database, Questions(database, live), live)
    lease, loop = Lease(JOB.execution_id, 1, uuid4()), asyncio.get_running_loop()
    calls: list[asyncio.Future[object]] = [
        asyncio.ensure_future(book.reserve(lease, JOB, planned(1), may_park=False))
        for _ in range(_MANY // 2)
    ]
    calls += [
        asyncio.ensure_future(book.settle(JOB, uuid4(), Used(Decimal(1), 1)))
        for _ in range(_MANY // 2)
    ]
    try:
        await asyncio.sleep(0.5)  # so that all have met the outage
        async with asyncio.timeout(20):
            assert await loop.getaddrinfo("127.0.0.1", 80), "names are resolved all the while"
            await database.threads.run(int), "and the database's own threads are free between tries"
        assert not [call for call in calls if call.done()], "all still wait for the database"
    finally:
        for call in calls:
            call.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(*calls, return_exceptions=True)
        database.close()
