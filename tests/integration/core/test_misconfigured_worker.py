"""A worker that lacks what an agent needs, beside others and alone."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from celeriac.db import workers
from celeriac.db.workers import WorkerReport
from celeriac.domain.errors import WorkerMisconfiguredError
from celeriac.domain.executions.states import Status
from celeriac.kit.ids import uuid7
from celeriac.kit.json_types import JsonValue
from celeriac.kit.loop import LoopThread
from celeriac.services.ports import Job, RunContext
from tests.support.core import Core
from tests.support.executing import Worker


@pytest.fixture
def loop() -> Iterator[LoopThread]:
    started = LoopThread()
    yield started
    started.close()


async def _lacks(job: Job, context: RunContext) -> JsonValue:
    del job, context
    raise WorkerMisconfiguredError("The worker finds no module 'shop'.", field="function")


def _beside(core: Core, hostname: str, queue: str) -> None:
    said = WorkerReport(
        id=uuid7(), hostname=hostname, pid=1, pool="threads", slots=1, running=0, cpu_percent=0,
        memory_bytes=1, version="1", queues=[queue], consuming=True,
    )  # fmt: skip
    with core.database.transaction() as connection:
        workers.report(connection, said)


def test_alone_it_fails_at_once(core: Core, tmp_path: Path, loop: LoopThread) -> None:
    _beside(core, "w", "default")
    _beside(core, "other", "elsewhere")
    execution = core.queued()
    Worker(core, tmp_path, loop, _lacks).run(execution)
    found = core.get(execution)
    assert (found.status, found.error_code) == (Status.FAILED, "agent_misconfigured")


def test_beside_another_it_hands_back(core: Core, tmp_path: Path, loop: LoopThread) -> None:
    execution = core.queued()
    _beside(core, "other", core.get(execution).queue)
    Worker(core, tmp_path, loop, _lacks).run(execution)
    found = core.get(execution)
    assert (found.status, found.retry_count) == (Status.PENDING, 0)
    assert found.error_code == "agent_misconfigured"
