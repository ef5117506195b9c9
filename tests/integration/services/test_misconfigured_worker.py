"""A worker that lacks what an agent needs, beside others and alone."""

from collections.abc import Sequence
from pathlib import Path

from celeriac.db import workers
from celeriac.domain.errors import WorkerMisconfiguredError
from celeriac.domain.executions.states import Status
from celeriac.domain.operations import WorkerReport
from celeriac.kit.ids import uuid7
from celeriac.kit.json_types import JsonValue
from celeriac.kit.loop import LoopThread
from celeriac.services.executions.lacks import Lacks
from celeriac.services.executions.run import MOST_HAND_BACKS
from celeriac.services.ports import Job, RunContext
from tests.support.core import Core
from tests.support.executing import Worker


async def _lacks(job: Job, context: RunContext) -> JsonValue:
    del job, context
    raise WorkerMisconfiguredError("The worker finds no module 'shop'.", field="function")


def _beside(core: Core, hostname: str, queue: str, lacks: Sequence[str] = ()) -> None:
    said = WorkerReport(
        id=uuid7(), hostname=hostname, pid=1, pool="threads", slots=1, running=0, cpu_percent=0,
        memory_bytes=1, version="1", queues=[queue], consuming=True, lacks=lacks,
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


def test_what_it_lacks_is_in_its_row(core: Core, tmp_path: Path, loop: LoopThread) -> None:
    worker = Worker(core, tmp_path, loop, _lacks)
    worker.run(core.queued())
    worker.run(core.queued())
    assert worker.lacks.names == ["The worker finds no module 'shop'."]
    _beside(core, "w", "default", lacks=worker.lacks.names)
    with core.database.autocommit() as connection:
        rows = workers.live(connection, within_seconds=60)
    assert worker.lacks.names in [row.lacks for row in rows]


def test_the_number_of_remembered_lacks_is_bounded() -> None:
    lacks = Lacks()
    for number in range(50):
        lacks.add(f"{number}: {'x' * 1_000}")
    assert len(lacks.names) == 20
    assert lacks.names[-1].startswith("49: ")
    assert all(len(each) <= 300 for each in lacks.names)


def test_it_is_handed_back_eight_times_at_most(
    core: Core, tmp_path: Path, loop: LoopThread
) -> None:
    """Workers that come and go with the same fault don't hand an execution on for ever."""
    execution = core.queued()
    queue = core.get(execution).queue
    for number in range(MOST_HAND_BACKS + 1):
        _beside(core, f"fresh-{number}", queue)
        core.execute("UPDATE workers SET stopped_at = now() WHERE hostname <> :name",
                     name=f"fresh-{number}")  # fmt: skip
        assert core.get(execution).status is not Status.FAILED, f"after {number} hand backs"
        core.execute("UPDATE executions SET available_at = now() WHERE status = 'pending'")
        core.dispatch.send_due()
        Worker(core, tmp_path, loop, _lacks).run(execution)

    found = core.get(execution)
    assert (found.status, found.error_code) == (Status.FAILED, "agent_misconfigured")
    assert core.event_types(execution).count("handed_back") == MOST_HAND_BACKS == 8
