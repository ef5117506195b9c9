"""Agents in one worker process cannot harm each other, whatever a coroutine does."""

from collections.abc import Iterator
from uuid import UUID

import pytest

from celeriac.domain.agents import CommandAgent
from celeriac.domain.executions.events import EventType
from celeriac.domain.executions.states import Status
from celeriac.domain.tasks import TaskSpec
from celeriac.kit.json_types import dumps
from tests.support import fleet_agents, misuses
from tests.support.catalog import make_task_of
from tests.support.fleet import Fleet, running_fleet
from tests.support.misuses import MISUSES
from tests.support.places import temporary_directory
from tests.support.programs import Program
from tests.support.servers import PostgresServer, ValkeyServer
from tests.support.waiting import wait_until

_LONG = {"soft_seconds": 500.0, "hard_seconds": 600.0}
_SHORT = {"soft_seconds": 1.0, "hard_seconds": 1.0}
_ENDS_SECONDS = 20.0
"""Far below the hard limit of an attempt, far above the second that its end may take."""

_WAIT_FOR_GATE = """
echo '{"type": "progress", "done": 0}'
while ! test -e "$0"; do sleep 0.05; done
echo '{"type": "result", "value": "went on"}'
"""


class Worker:
    """One worker process, kept for all misuses, and replaced where one has harmed it."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet
        self.tasks: dict[str, UUID] = {}
        for name, limits in (("long", _LONG), ("short", _SHORT)):
            self.tasks[name] = fleet.task(
                f"{misuses.__name__}:misuse", retry={"max_retries": 0}, limits=limits
            )
        self.hold = fleet.task("hold", retry={"max_retries": 0})
        self.noop = fleet.task("noop")
        self.end_loop = fleet.task(f"{misuses.__name__}:end_shared_loop", retry={"max_retries": 0})
        self._started = 0
        self._program: Program | None = None
        self.harmed = True

    @property
    def program(self) -> Program:
        if self.harmed or self._program is None or self._program.exit_code is not None:
            if self._program is not None:
                self._program.close()
            self._started += 1
            modules = [fleet_agents.__name__, misuses.__name__]
            self._program = self.fleet.worker(
                f"w{self._started}",
                slots=24,
                CELERIAC_AGENT_MODULES=dumps(modules),
                CELERIAC_COMMANDS=dumps({"wait": ["sh", "-c", _WAIT_FOR_GATE]}),
            )
            self.harmed = False
        return self._program


@pytest.fixture(scope="module")
def worker(
    postgres_server: PostgresServer, valkey_server: ValkeyServer, migrated: str
) -> Iterator[Worker]:
    database = postgres_server.fresh_database(migrated)
    valkey_server.flush()
    with (
        temporary_directory() as home,
        running_fleet(
            home, database_url=postgres_server.url(database), redis_url=valkey_server.url()
        ) as fleet,
    ):
        fleet.beat()
        yield Worker(fleet)
    postgres_server.drop_database(database)


@pytest.mark.requirement("F3")
@pytest.mark.parametrize("how", MISUSES)
def test_a_misuse_ends_its_own_attempt_and_no_other(worker: Worker, how: str) -> None:
    wanted, fleet, program = MISUSES[how], worker.fleet, worker.program
    worker.harmed = True  # until it has shown that it is not
    pid = program.pid
    gate = fleet.home / f"gate {how}"
    diary = fleet.home / f"diary {how}"
    wait = make_task_of(
        fleet.container.database,
        fleet.actor,
        CommandAgent(command="wait", arguments=(str(gate),)),
        TaskSpec.model_validate({"retry": {"max_retries": 0}}),
    )
    others = [fleet.submit(worker.hold, diary=str(diary), gate=str(gate)) for _ in range(2)]
    others.append(fleet.submit(wait))
    for each in others:
        fleet.wait_status(each, Status.RUNNING)
    wait_until(lambda: diary.exists() and len(diary.read_text().splitlines()) == 2, "they hold")

    harmful = fleet.submit(worker.tasks["short" if wanted.blocks else "long"], how=how)

    ended = fleet.wait_status(harmful, Status.COMPLETED, Status.FAILED, within=_ENDS_SECONDS)
    after = fleet.submit(worker.noop)
    assert fleet.wait_status(after, Status.COMPLETED, Status.FAILED).status is Status.COMPLETED
    gate.touch()
    for each in others:
        one = fleet.wait_status(each, Status.COMPLETED, Status.FAILED)
        assert (one.status, one.attempt, one.crash_count) == (Status.COMPLETED, 1, 0)
    assert (ended.error_code, ended.crash_count) == (wanted.code, 0)
    if wanted.code is not None:
        assert wanted.says in (ended.error_message or "")
        reason = "permanent" if wanted.permanent else "retries_exhausted"
        assert ended.error_details is not None
        assert ended.error_details["gave_up"] == reason
    assert program.pid == pid
    assert program.exit_code is None
    worker.harmed = False


@pytest.mark.parametrize("how", misuses.LOOP_ENDS)
def test_what_ran_on_the_shared_loop_is_tried_again_at_once_when_that_ends(
    worker: Worker, how: str
) -> None:
    fleet, program = worker.fleet, worker.program
    worker.harmed = True
    gate = fleet.home / f"gate {how}"
    diary = fleet.home / f"diary {how}"
    retry = {"max_retries": 1, "base_seconds": 0.1}
    wait = make_task_of(
        fleet.container.database,
        fleet.actor,
        CommandAgent(command="wait", arguments=(str(gate),)),
        TaskSpec.model_validate({"retry": retry, "limits": _LONG}),
    )
    shared = [fleet.submit(wait) for _ in range(3)]
    own = fleet.submit(worker.hold, diary=str(diary), gate=str(gate))
    wait_until(
        lambda: all("progress" in fleet.event_types(each) for each in shared), "the programs run"
    )
    wait_until(diary.exists, "the coroutine holds")

    fleet.submit(worker.end_loop, how=how)

    wait_until(
        lambda: all(fleet.get(each).attempt == 2 for each in shared),
        "they are tried again",
        within=_ENDS_SECONDS,
    )
    gate.touch()
    for each in shared:
        one = fleet.wait_status(each, Status.COMPLETED, Status.FAILED)
        assert (one.status, one.attempt, one.crash_count) == (Status.COMPLETED, 2, 0)
        (retried,) = [e for e in fleet.events(each) if e.type is EventType.RETRY_SCHEDULED]
        assert retried.data["code"] == "event_loop_ended"
    alone = fleet.wait_status(own, Status.COMPLETED, Status.FAILED)
    assert (alone.status, alone.attempt) == (Status.COMPLETED, 1)
    assert program.exit_code is None
    worker.harmed = False
