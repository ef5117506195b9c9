"""How many statements the hot path sends: not one more than it needs."""

import asyncio
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from celeriac.domain.errors import PermanentError
from celeriac.domain.executions.events import EventType
from celeriac.domain.executions.states import Status
from celeriac.kit.json_types import JsonValue
from celeriac.kit.loop import LoopThread
from celeriac.services.ports import Job, RunContext
from tests.support.asking import YES, Asking, a_question
from tests.support.core import Core
from tests.support.executing import Worker
from tests.support.statements import sent


async def say(job: Job, context: RunContext) -> JsonValue:
    """Tell, fail, ask and save as the variables say."""
    for _ in range(job.variables.get("events", 0)):
        await context.emit(EventType.CUSTOM, {"name": "a"})
    if job.variables.get("saves"):
        await context.save_session()
    if job.variables.get("asks"):
        with suppress(TimeoutError):
            async with asyncio.timeout(0):
                await context.ask(a_question())
    if job.variables.get("fails"):
        raise PermanentError("It can't be done.")
    return "done"


@pytest.fixture
def worker(core: Core, tmp_path: Path) -> Iterator[Worker]:
    loop = LoopThread()
    yield Worker(core, tmp_path, loop, say)
    loop.close()


def test_one_statement_submits_and_two_run_an_execution(core: Core, worker: Worker) -> None:
    worker.run(core.queued())  # reads the specification
    with sent(core.database) as submitting:
        execution_id = core.queued()
    message = core.message(execution_id)
    with sent(core.database) as running:
        worker.execute(message)
    assert (len(submitting), len(running)) == (1, 2)


def test_what_is_told_costs_one_statement_with_the_end(core: Core, worker: Worker) -> None:
    worker.run(core.queued())
    (execution_id,) = core.pending_many([{"events": 50}])
    core.dispatch.send_due()
    message = core.message(execution_id)
    with sent(core.database) as running:
        worker.execute(message)
    assert len(running) == 3
    assert len(core.events(execution_id)) == 54


def test_a_failure_is_one_statement(core: Core, worker: Worker) -> None:
    worker.run(core.queued())
    (execution_id,) = core.pending_many([{"fails": True}])
    core.dispatch.send_due()
    message = core.message(execution_id)
    with sent(core.database) as running:
        worker.execute(message)
    assert core.status(execution_id) is Status.FAILED
    assert len(running) == 2


@pytest.mark.parametrize("what", ["saves", "asks"])
def test_the_end_of_who_asked_or_saved_locks_first(core: Core, worker: Worker, what: str) -> None:
    worker.run(core.queued())
    (execution_id,) = core.pending_many([{what: True}])
    core.dispatch.send_due()
    message = core.message(execution_id)
    with sent(core.database) as running:
        worker.execute(message)
    assert core.status(execution_id) is Status.COMPLETED
    locks = [n for n, each in enumerate(running) if each.endswith("FOR NO KEY UPDATE")]
    (lock,) = locks
    (end,) = [place for place, each in enumerate(running) if "withdrawn AS" in each]
    assert lock < end
    core.assert_consistent()


def test_a_turn_claims_with_the_statement_that_finishes(core: Core, worker: Worker) -> None:
    worker.run(core.queued())
    first = core.queued()
    core.pending_many([{}] * 4)
    message = core.message(first)
    with sent(core.database) as running:
        assert worker.execute(message) == 5
    assert len(running) == 6, "one to claim the first, then one for each"


def test_an_answer_reads_the_question_once(core: Core) -> None:
    """It locks and reads, stores, resumes and audits: four statements, of which one reads."""
    asking = Asking(core)
    approval_id = asking.only(asking.parked()).id
    core.dispatch.send_due()
    with sent(core.database) as answering:
        asking.approvals.answer(core.actor, approval_id, YES)
    dispatching = [each for each in answering if "RECURSIVE" in each]
    assert len(answering) - len(dispatching) == 4, answering
    assert len([each for each in answering if each.lstrip().startswith("SELECT")]) == 1
