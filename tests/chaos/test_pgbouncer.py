"""Behind PgBouncer in transaction mode, which is restarted amid the work."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import make_url, text

from celeriac.client import Client
from celeriac.domain.agents import PythonAgent
from celeriac.domain.executions.states import Status
from tests.support import fleet_agents
from tests.support.command_line import CommandLine
from tests.support.fleet import SECRET_KEY, SHORT_TIMES, UNHURRIED, Fleet
from tests.support.pgbouncer import PgBouncer, running_pgbouncer
from tests.support.servers import PostgresServer
from tests.support.waiting import wait_until

pytestmark = pytest.mark.requirement("F10")

COUNT = 200


@pytest.fixture
def pooler(postgres_server: PostgresServer) -> Iterator[PgBouncer]:
    with running_pgbouncer(postgres_server.postgres) as server:
        yield server


@pytest.fixture
def direct(fleet: Fleet) -> str:
    """The URL of the database without the pooler."""
    return fleet.settings.require_database()


@pytest.fixture
def pooled(direct: str, pooler: PgBouncer) -> dict[str, str]:
    """The environment of programs behind the pooler."""
    return {
        "DATABASE_URL": pooler.url(str(make_url(direct).database)),
        "CELERIAC_DATABASE_POOLER": "true",
        **UNHURRIED,
    }


@pytest.fixture
def commands(fleet: Fleet, pooled: dict[str, str]) -> CommandLine:
    """The command line behind the pooler."""
    return CommandLine(
        fleet.home,
        **{**SHORT_TIMES, **pooled},
        REDIS_URL=fleet.settings.require_redis(),
        CELERIAC_SECRET_KEY=SECRET_KEY,
    )


@pytest.mark.requirement("B13")
def test_restarted_amid_the_work(
    fleet: Fleet, pooler: PgBouncer, pooled: dict[str, str], commands: CommandLine
) -> None:
    set_role(fleet, commands, pooler)
    fleet.beat(**pooled)
    fleet.worker(slots=8, **pooled)
    address = fleet.address_of(fleet.api(**pooled))
    token = fleet.key()
    with Client(address, token) as client:
        client.agents.create("nap", PythonAgent(function=f"{fleet_agents.__name__}:nap"))
        client.tasks.create("nap", "nap")
        variables = {"seconds": 0.05, "diary": str(fleet.diary)}
        ids = client.executions.execute_batch("nap", [variables] * COUNT).execution_ids
        wait_until(lambda: fleet.ended(ids) > COUNT / 5, "the work is under way")
        pooler.kill()
        pooler.start()
        ids = [*ids, client.executions.execute("nap", variables).execution_id]
        done = fleet.wait_terminal(ids, within=60)
    assert {each.status for each in done} == {Status.COMPLETED}
    assert {(each.attempt, each.crash_count) for each in done} == {(1, 0)}, "work was done twice"
    assert Counter(fleet.event_types(ids[0]))["completed"] == 1
    assert len(fleet.diary_lines()) == len(ids)


def test_doctor_names_the_settings_that_the_role_needs(
    fleet: Fleet, pooler: PgBouncer, commands: CommandLine
) -> None:
    wrong = pooler_finding(commands)
    assert wrong["level"] == "warning"
    for name in ("enable_seqscan", "plan_cache_mode", "lock_timeout", "statement_timeout"):
        assert name in wrong["message"]
    set_role(fleet, commands, pooler)
    assert pooler_finding(commands)["level"] == "ok"


def test_doctor_names_the_pooler_that_refuses_our_options(commands: CommandLine) -> None:
    findings = commands.run("doctor", "--json", CELERIAC_DATABASE_POOLER="false").value["findings"]
    found = next(each for each in findings if each["subject"] == "PostgreSQL")
    assert found["level"] == "failed"
    assert "CELERIAC_DATABASE_POOLER=true" in found["cure"]


def test_migrations_take_the_direct_address(commands: CommandLine, direct: str) -> None:
    refused = commands.run("db", "upgrade")
    assert refused.code == 2
    assert "CELERIAC_DATABASE_DIRECT_URL" in refused.err
    assert commands.run("db", "upgrade", CELERIAC_DATABASE_DIRECT_URL=direct).code == 0


def pooler_finding(commands: CommandLine) -> Any:
    findings = commands.run("doctor", "--json").value["findings"]
    return next(each for each in findings if each["subject"] == "pooler")


def set_role(fleet: Fleet, commands: CommandLine, pooler: PgBouncer) -> None:
    """Do what doctor says."""
    statements = pooler_finding(commands)["cure"].rpartition(";")[0]
    with fleet.container.database.transaction() as connection:
        for statement in statements.split(";"):
            connection.execute(text(statement))
    pooler.connect_anew()
