"""A fleet for one test: workers, beats and APIs as real processes on the test's own servers."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

from pydantic import SecretStr
from sqlalchemy import text

from celeriac.adapters.celery_queue import QUEUES, create_app
from celeriac.db.executions import events, queries
from celeriac.domain.accounts import Role
from celeriac.domain.executions.events import Event
from celeriac.domain.executions.model import Execution, SubmitRequest
from celeriac.domain.executions.states import Status
from celeriac.domain.tasks import TaskSpec
from celeriac.kit.json_types import JsonObject, JsonValue, dumps
from celeriac.services.accounts import Accounts
from celeriac.services.executions.submit import Submitted
from celeriac.services.retrying import retry_while_unavailable
from celeriac.settings import Settings
from celeriac.wiring.core import CoreServices, build, celery_options
from tests.support import fleet_agents
from tests.support.catalog import make_actor, make_task
from tests.support.consistency import assert_consistent
from tests.support.programs import Program, scrubbed_environment
from tests.support.waiting import wait_until

API_FACTORY = "celeriac.api.app:from_environment"
SECRET_KEY = "a key of tests alone: 0123456789abcdef"

SHORT_TIMES = {
    "CELERIAC_WORKER_LEASE_SECONDS": "2",
    "CELERIAC_WORKER_HEARTBEAT_SECONDS": "0.5",
    "CELERIAC_KEEPER_INTERVAL_SECONDS": "0.2",
    "CELERIAC_KEEPER_RESEND_SECONDS": "2",
    "CELERIAC_CELERY_VISIBILITY_TIMEOUT": "5",
    "CELERIAC_CELERY_WORKER_SOFT_SHUTDOWN_TIMEOUT": "2",
}
"""What takes minutes in production takes seconds here."""

UNHURRIED = {
    "CELERIAC_WORKER_LEASE_SECONDS": "10",
    "CELERIAC_CELERY_VISIBILITY_TIMEOUT": "3600",
}
"""For tests where no worker is lost: a busy machine must not cost one its lease, nor have a plain
task delivered twice that takes longer than the visibility timeout."""

START_SECONDS = 60.0
_SERVES = "Uvicorn running on "


class Fleet:
    """Starts processes, submits to them, and reads what the database has.

    `container` holds the same parts that the API has, in the test's own process.
    """

    def __init__(
        self,
        home: Path,
        *,
        database_url: str,
        redis_url: str,
        broker_url: str | None = None,
        key_prefix: str = "",
    ) -> None:
        self.home = home
        self.programs: list[Program] = []
        self._urls = {"DATABASE_URL": database_url, "REDIS_URL": redis_url}
        if broker_url is not None:
            self._urls["CELERY_BROKER_URL"] = broker_url
        if key_prefix:
            self._urls["CELERIAC_REDIS_KEY_PREFIX"] = key_prefix
        settings = Settings.load(home=home / "test").model_copy(
            update={
                "database_url": database_url,
                "redis_url": redis_url,
                "redis_key_prefix": key_prefix,
                "celery_broker_url": broker_url,
                "celery_result_backend": None,
                "secret_key": SecretStr(SECRET_KEY),
            }
        )
        self.settings = settings
        self.container: CoreServices = build(settings, service="test", connections=4)
        self.celery = create_app(celery_options(settings, publisher=False))
        """Celery's app as a library user has it, in the test's own process."""
        self.actor = make_actor(self.container.database, Role.ADMIN)
        self.notes = home / "open-to-agents"
        """A directory where agents may write, whoever they run as."""
        self.notes.mkdir()
        self.notes.chmod(0o777)
        self.diary = self.notes / "diary"
        self.diary.touch()
        self.diary.chmod(0o666)
        self.gate = home / "gate"

    def key(self) -> str:
        """Return a new API key of `actor`, an administrator."""
        accounts = Accounts(self.container.database, SECRET_KEY)
        return accounts.bootstrap_admin(self.actor.name).token

    # processes

    def worker(
        self,
        name: str = "w1",
        *,
        pool: str = "threads",
        slots: int = 8,
        options: Sequence[str] = (),
        **env: str,
    ) -> Program:
        """Start a worker, `options` being Celery's own, and wait until all its processes report."""
        program = self.program(
            name,
            ["-m", "celery", "-A", "celeriac", "worker", "--pool", pool, "-c", str(slots),
             "-n", f"{name}@fleet", "-Q", ",".join(QUEUES), "--loglevel=INFO",
             "--without-gossip", "--without-mingle", *options],
            **env,
        )  # fmt: skip
        self.wait_ready(program, slots if pool == "prefork" else 1)
        return program

    def lasting_worker(
        self,
        name: str,
        *,
        pool: str = "threads",
        slots: int = 8,
        options: Sequence[str] = (),
        **env: str,
    ) -> Program:
        """Start a worker that is not to be lost, as by a busy machine: see `UNHURRIED`."""
        return self.worker(name, pool=pool, slots=slots, options=options, **{**UNHURRIED, **env})

    def wait_ready(self, worker: Program, processes: int = 1) -> None:
        """Wait until as many processes of a worker, just started, have reported."""
        query = text(
            "SELECT count(*) FROM workers WHERE hostname = :name AND stopped_at IS NULL"
            " AND seen_at > now() - interval '1 second'"
        )

        def ready() -> bool:
            assert worker.exit_code is None, f"{worker.name} has ended:\n{worker.output()}"
            return int(self.scalar(query, name=f"{worker.name}@fleet")) >= processes

        wait_until(ready, f"{worker.name} has reported", within=START_SECONDS)

    def beat(self, name: str = "beat", **env: str) -> Program:
        """Start a beat; its first deeds show that it runs."""
        return self.program(
            name, ["-m", "celery", "-A", "celeriac", "beat", "--loglevel=INFO"], **env
        )

    def api(self, name: str = "api", **env: str) -> Program:
        """Start an API on a free port; `address_of` tells which."""
        return self.program(name, ["-m", "uvicorn", "--factory", API_FACTORY, "--port", "0"], **env)

    def address_of(self, api: Program) -> str:
        """Wait until an API serves, and return its address."""

        def serves() -> bool:
            assert api.exit_code is None, f"{api.name} has ended:\n{api.output()}"
            return _SERVES in api.output()

        wait_until(serves, f"{api.name} serves", within=START_SECONDS)
        return api.output().split(_SERVES, 1)[1].split()[0].strip("\"',")

    def program(self, name: str, arguments: Sequence[str], **env: str) -> Program:
        """Start a program of ours in the fleet's `environment`, changed by `env`.

        It is forked (`tests.support.forking`), unless `env` changes how Python starts.
        """
        log = self.home / f"{name}.log"
        forked = not any(key.startswith("PYTHON") for key in env)
        program = Program(name, arguments, self.environment(**env), log, forked=forked)
        self.programs.append(program)
        return program

    def environment(self, **env: str) -> dict[str, str]:
        """Return a scrubbed environment that names the fleet's servers and short times."""
        settings = {
            **SHORT_TIMES,
            **self._urls,
            "CELERIAC_SECRET_KEY": SECRET_KEY,
            "CELERIAC_LOG_CONSOLE": "json",
            "CELERIAC_AGENT_MODULES": dumps([fleet_agents.__name__]),
            **env,
        }
        return scrubbed_environment(self.home, **settings)

    # work

    def task(self, function: str, **spec: Any) -> UUID:
        """Make a task for a function of `fleet_agents`."""
        return make_task(self.container.database, self.actor, function, TaskSpec(**spec))

    def submit(self, task: UUID, **variables: Any) -> UUID:
        """Submit one execution and return its id."""
        return self.submitted(task, **variables).execution_id

    def submitted(self, task: UUID, **variables: Any) -> Submitted:
        """Submit one execution and return what a client would be told."""
        return self.container.submit(self.actor, SubmitRequest(task_id=task, variables=variables))

    def batch(self, task: UUID, variables: Sequence[JsonObject]) -> Sequence[UUID]:
        """Submit many executions at once; the keeper sends them."""
        request = SubmitRequest(task_id=task)
        return self.container.submit.batch(self.actor, request, variables).execution_ids

    def open_gate(self) -> None:
        """Let the agents go that wait for it."""
        self.gate.touch()

    def diary_lines(self) -> list[str]:
        """What agents wrote: `attempt pid` each."""
        return self.diary.read_text().splitlines() if self.diary.exists() else []

    def dropped(self, worker: Program, execution_id: UUID) -> int:
        """How many messages of an execution a worker has thrown away."""
        lines = worker.logged("execution.dropped")
        return sum(line.get("execution_id") == str(execution_id) for line in lines)

    # what the database has

    def scalar(self, query: Any, **parameters: Any) -> Any:
        """Return the one value of a query; waits for a server that was just started again."""

        def ask() -> Any:
            with self.container.database.autocommit() as connection:
                return connection.execute(query, parameters).scalar_one()

        return retry_while_unavailable(ask, seconds=20)

    def ids(self, status: Status) -> list[UUID]:
        """Return the ids of all executions with a status."""
        with self.container.database.autocommit() as connection:
            query = text("SELECT id FROM executions WHERE status = :status ORDER BY id")
            return list(connection.execute(query, {"status": status.value}).scalars())

    def get(self, execution_id: UUID) -> Execution:
        """Return an execution."""
        with self.container.database.autocommit() as connection:
            found = queries.get(connection, execution_id, workspace=None)
        assert found is not None, f"{execution_id} is lost"
        return found

    def events(self, execution_id: UUID) -> list[Event]:
        """Return an execution's log."""
        with self.container.database.autocommit() as connection:
            return events.after(connection, execution_id, 0, 10_000)

    def event_types(self, execution_id: UUID) -> list[str]:
        """Return the kinds of an execution's events, in order."""
        return [event.type.value for event in self.events(execution_id)]

    def wait_status(self, execution_id: UUID, *wanted: Status, within: float = 45.0) -> Execution:
        """Wait until an execution has one of the statuses, and return it."""
        names = " or ".join(wanted)
        wait_until(
            lambda: self.get(execution_id).status in wanted,
            f"{execution_id} is {names}",
            within=within,
        )
        return self.get(execution_id)

    def wait_terminal(self, ids: Sequence[UUID], *, within: float = 45.0) -> list[Execution]:
        """Wait until all have ended, check that the database holds together, return them."""
        wait_until(
            lambda: self.ended(ids) == len(ids),
            f"all {len(ids)} executions have ended",
            within=within,
        )
        self.assert_consistent()
        return [self.get(each) for each in ids]

    def ended(self, ids: Sequence[UUID]) -> int:
        """How many of these executions have ended."""
        query = text(
            "SELECT count(*) FROM executions WHERE id = ANY(:ids)"
            " AND status IN ('completed', 'failed', 'cancelled')"
        )
        return int(self.scalar(query, ids=list(ids)))

    def assert_consistent(self) -> None:
        """Check what must hold at any time, whatever happened."""
        assert_consistent(self.container.database)

    def close(self) -> None:
        """End all processes and connections."""
        for program in self.programs:
            program.close()
        self.celery.close()
        self.container.close()

    def report(self) -> list[tuple[str, str]]:
        """What the programs wrote, for a test that failed."""
        return [(program.name, program.output()) for program in self.programs]


@contextmanager
def running_fleet(home: Path, **servers: str) -> Iterator[Fleet]:
    """Make a fleet of `servers` without processes, and end what was started at the end."""
    fleet = Fleet(home, **servers)
    try:
        yield fleet
    finally:
        fleet.close()


def nap(fleet: Fleet) -> UUID:
    """Submit an execution that takes a moment and writes a line into the diary."""
    return fleet.submit(fleet.task("nap"), **_naps(fleet))


def naps_under_way(fleet: Fleet, count: int) -> list[UUID]:
    """Start a keeper, a worker and `count` executions, of which a fifth has ended."""
    fleet.beat(**UNHURRIED)
    fleet.worker(slots=8, **UNHURRIED)
    ids = list(fleet.batch(fleet.task("nap"), [_naps(fleet)] * count))
    wait_until(lambda: fleet.ended(ids) > count / 5, "the work is under way")
    return ids


def _naps(fleet: Fleet) -> dict[str, JsonValue]:
    return {"seconds": 0.05, "diary": str(fleet.diary)}
