"""A dump, restored into a new cluster with an empty Valkey: all that was accepted goes on."""

import subprocess
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import pytest

from celeriac.domain.executions.states import Status
from celeriac.kit.json_types import dumps
from tests.support import durable_functions, fleet_agents
from tests.support.docs import blocks
from tests.support.fleet import Fleet, running_fleet
from tests.support.outages import driver_url
from tests.support.places import temporary_directory
from tests.support.servers import PostgresServer, ValkeyServer, running_postgres, running_valkey

pytestmark = pytest.mark.requirement("B14")

_SHELL = [each.text for each in blocks("docs/deployment.md") if each.language == "sh"]
[_DUMP] = [each for each in _SHELL if "pg_dump" in each]
[_RESTORE] = [each for each in _SHELL if "pg_restore" in each]
_MODULES = dumps([fleet_agents.__name__, durable_functions.__name__])
_SLEEP_SECONDS = 12.0


@pytest.fixture
def new_valkey() -> Iterator[ValkeyServer]:
    with running_valkey() as server:
        yield server


@pytest.fixture
def new_postgres() -> Iterator[PostgresServer]:
    with running_postgres() as server:
        yield server


def _type(script: str, server: PostgresServer, database: str, directory: Path) -> None:
    """Run commands of the page with the tools of the server's version."""
    done = subprocess.run(
        ["bash", "-c", f"set -eu\n{script}"],
        cwd=directory,
        env={
            "PATH": f"{server.postgres.programs}:/usr/bin:/bin",
            "DATABASE_URL": driver_url(server.url(database)),
        },
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_what_waits_goes_on_after_a_restore(
    postgres_server: PostgresServer,
    migrated: str,
    valkey_server: ValkeyServer,
    new_postgres: PostgresServer,
    new_valkey: ValkeyServer,
) -> None:
    old, new = postgres_server.fresh_database(migrated), new_postgres.fresh_database()
    with temporary_directory() as home, temporary_directory() as other:
        with running_fleet(
            home, database_url=postgres_server.url(old), redis_url=valkey_server.url()
        ) as fleet:
            ended, parked, running = _work(fleet)
            queued = fleet.submit(fleet.task("noop"))
            pending = list(fleet.batch(fleet.task("noop"), [{"number": 1}, {"number": 2}]))
            events = fleet.event_types(ended)
            _type(_DUMP, postgres_server, old, home)
        _type(_RESTORE, new_postgres, new, home)
        with running_fleet(
            other, database_url=new_postgres.url(new), redis_url=new_valkey.url()
        ) as fleet:
            assert fleet.event_types(ended) == events
            assert fleet.get(ended).result == {"number": 7}
            (home / "gate").touch()  # what the old executions wait for
            fleet.beat()
            fleet.lasting_worker("w2", CELERIAC_AGENT_MODULES=_MODULES)
            done = fleet.wait_terminal([parked, running, queued, *pending], within=90)
            assert {each.status for each in done} == {Status.COMPLETED}
            assert done[0].result == ["before", "after"]
            assert done[1].crash_count == 1  # its worker was lost with the old system
            fleet.assert_consistent()
    postgres_server.drop_database(old)


def _work(fleet: Fleet) -> tuple[UUID, UUID, UUID]:
    """Return executions that have ended, are parked, and run on a worker that is killed."""
    worker = fleet.lasting_worker("w1", CELERIAC_AGENT_MODULES=_MODULES)
    ended = fleet.submit(fleet.task("noop"), number=7)
    sleeper = fleet.task(f"{durable_functions.__name__}:sleeper")
    parked = fleet.submit(sleeper, log=str(fleet.diary), seconds=_SLEEP_SECONDS)
    held = fleet.task("hold")
    running = fleet.submit(held, diary=str(fleet.diary), gate=str(fleet.gate))
    fleet.wait_terminal([ended])
    fleet.wait_status(parked, Status.WAITING)
    fleet.wait_status(running, Status.RUNNING)
    worker.kill()
    return ended, parked, running
