"""`celeriac worker`, `beat`, `api` and `doctor` where something is wrong (E8)."""

import json
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import httpx
import psycopg
import pytest
from celery import Celery

from celeriac.adapters.celery_queue import QUEUES
from celeriac.db import workers
from celeriac.db.engine import Database
from celeriac.domain.executions.model import SubmitRequest
from celeriac.domain.operations import WorkerReport
from celeriac.embedded.home import reserve_port
from celeriac.kit.ids import uuid7
from tests.support.command_line import CommandLine, RunningUp
from tests.support.core import Core
from tests.support.outages import driver_url
from tests.support.places import temporary_directory
from tests.support.servers import PostgresServer, ValkeyServer
from tests.support.waiting import wait_until


@pytest.fixture
def own() -> Iterator[CommandLine]:
    """A command line with a home in which nothing runs."""
    with temporary_directory() as directory:
        yield CommandLine(directory, CELERIAC_SECRET_KEY="a key of tests alone: 0123456789abcdef")


@pytest.fixture
def database(postgres_server: PostgresServer, migrated: str) -> Iterator[str]:
    name = postgres_server.fresh_database(migrated)
    yield postgres_server.url(name)
    postgres_server.drop_database(name)


@pytest.mark.requirement("E8")
@pytest.mark.parametrize("program", ["worker", "beat", "api"])
def test_without_addresses_it_says_how_to_get_them(own: CommandLine, program: str) -> None:
    result = own.run(program)
    assert result.code == 2
    assert "can't start." in result.err
    assert "DATABASE_URL is not set" in result.err
    assert "celeriac up" in result.err


@pytest.mark.requirement("E8")
def test_a_worker_names_servers_that_do_not_answer(own: CommandLine) -> None:
    result = own.run(
        "worker",
        DATABASE_URL=f"postgresql://u:secret@127.0.0.1:{reserve_port()}/x",
        REDIS_URL=f"redis://:secret@127.0.0.1:{reserve_port()}/0",
    )
    assert result.code == 5
    first, *rest = result.err.splitlines()
    assert first == "error: The worker can't start. [not_ready]"
    assert any("PostgreSQL at" in line and "doesn't answer" in line for line in rest)
    assert any("Redis at" in line and "doesn't answer" in line for line in rest)
    assert any("broker" in line and "doesn't answer" in line for line in rest)
    assert "secret" not in result.err


@pytest.mark.requirement("E8")
def test_a_worker_names_a_database_without_our_tables(
    own: CommandLine, postgres_server: PostgresServer, valkey_server: ValkeyServer
) -> None:
    name = postgres_server.fresh_database()
    env = {"DATABASE_URL": postgres_server.url(name), "REDIS_URL": valkey_server.url()}
    result = own.run("worker", **env)
    assert result.code == 1
    assert "the database is empty" in result.err
    assert "celeriac db upgrade" in result.err
    assert own.run("db", "status", **env).code == 1
    assert own.run("db", "upgrade", **env).code == 0
    assert own.run("db", "check", **env).code == 0
    assert "up to date" in own.run("db", "upgrade", **env).out
    postgres_server.drop_database(name)


@pytest.mark.requirement("E8")
def test_a_worker_names_a_wrong_password_and_a_missing_database(
    own: CommandLine, postgres_server: PostgresServer, valkey_server: ValkeyServer
) -> None:
    right = postgres_server.url("nosuchdatabase")
    missing = own.run("worker", DATABASE_URL=right, REDIS_URL=valkey_server.url())
    assert missing.code == 5
    assert "nosuchdatabase" in missing.err
    assert "Create it, or correct DATABASE_URL." in missing.err


@pytest.mark.requirement("E8", "E9")
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ((), ("thread", 100, QUEUES)),
        (("--concurrency", "7"), ("thread", 7, QUEUES)),
        (("--pool", "prefork", "-c2"), ("prefork", 2, QUEUES)),
        (("--autoscale", "3,1"), ("prefork", 3, QUEUES)),
        (("-Q", "only_this"), ("thread", 100, ("only_this",))),
    ],
    ids=["defaults", "concurrency", "pool", "autoscale", "queues"],
)
def test_a_worker_takes_celerys_options(
    own: CommandLine,
    database: str,
    valkey_server: ValkeyServer,
    options: tuple[str, ...],
    expected: tuple[str, int, tuple[str, ...]],
) -> None:
    pool, slots, queues = expected
    env = {"DATABASE_URL": database, "REDIS_URL": valkey_server.url()}
    worker = own.start("worker", "worker", "-n", "mine@here", *options, **env)
    try:
        wait_until(lambda: worker.logged("celery.worker_ready"), "the worker is ready", within=60)
        stats = _inspect(own, "stats", **env)
        assert stats["pool"]["implementation"] == f"celery.concurrency.{pool}:TaskPool"
        asked = stats.get("autoscaler", {}).get("max") or stats["pool"]["max-concurrency"]
        assert asked == slots, stats
        assert {each["name"] for each in _inspect(own, "active_queues", **env)} == set(queues)
        worker.terminate()
        assert worker.wait_end(within=60) == 0
    finally:
        worker.close()


def test_the_first_key_needs_the_database_and_the_secret_alone(
    own: CommandLine, database: str
) -> None:
    env = {"DATABASE_URL": database}
    made = own.run("db", "admin-key", "ada", "--key-name", "first key", "--json", **env)
    assert made.code == 0, made.err
    assert made.value["user"] == "ada"
    again = own.run("db", "admin-key", "ada", **env)
    assert again.out.strip().startswith("cel_")
    assert again.out.strip() != made.value["key"]
    for wrong, words in (
        (("not a name",), "USER 'not a name'"),
        (("ada", "--key-name", "two\nlines"), "--key-name"),
    ):
        refused = own.run("db", "admin-key", *wrong, **env)
        assert refused.code == 2
        assert words in refused.err
    keyless = own.run("db", "admin-key", CELERIAC_SECRET_KEY="", **env)
    assert keyless.code == 2
    assert "CELERIAC_SECRET_KEY" in keyless.err
    with psycopg.connect(driver_url(database)) as connection:
        connection.execute("UPDATE users SET role = 'viewer' WHERE name = 'ada'")
    lesser = own.run("db", "admin-key", "ada", **env)
    assert lesser.code == 1
    assert "is no active admin" in lesser.err
    assert lesser.out == ""


def test_the_api_serves_and_says_what_it_misses(
    own: CommandLine, database: str, valkey_server: ValkeyServer
) -> None:
    env = {"DATABASE_URL": database, "REDIS_URL": valkey_server.url()}
    keyless = own.run("api", "--port", "0", CELERIAC_SECRET_KEY="", **env)
    assert keyless.code == 2
    assert "CELERIAC_SECRET_KEY" in keyless.err.splitlines()[0]
    port = str(reserve_port())
    api = own.start("api", "api", "--port", port, **env)
    try:
        wait_until(lambda: "Uvicorn running on" in api.output(), "the API serves", within=60)
        ready = httpx.get(f"http://127.0.0.1:{port}/health/ready", trust_env=False, timeout=60)
        assert ready.json()["status"] == "ok"
        taken = own.run("api", "--port", port, **env)
        assert taken.code == 1
        assert f"Port {port} on 127.0.0.1 is in use" in taken.err
    finally:
        api.close()


def test_programs_find_the_stack_that_runs_in_the_home(
    up: RunningUp, commands: CommandLine
) -> None:
    worker = commands.start("second", "worker", "-n", "second@%h", "-c", "2")
    try:
        wait_until(lambda: worker.logged("celery.worker_ready"), "the worker is ready", within=60)

        def known() -> bool:
            findings = commands.ask("doctor")["findings"]
            return any(finding["message"].startswith("second@") for finding in findings)

        wait_until(known, "doctor knows the second worker", within=60)
        worker.terminate()
        assert worker.wait_end(within=60) == 0
    finally:
        worker.close()


def test_doctor_says_what_is_wrong_and_what_helps(own: CommandLine) -> None:
    result = own.run("doctor")
    assert result.code == 1
    assert "FAIL  PostgreSQL" in result.out
    assert "celeriac up" in result.out
    assert "unknown without the database" in result.out
    assert "`celeriac api`" not in result.out, "an API has nothing to start with yet"
    found = own.run("doctor", "--json")
    assert found.code == 1
    assert not found.value["ok"]
    webhook = {
        "CELERIAC_APPROVALS_WEBHOOK": "https://hooks.example/celeriac",
        "CELERIAC_APPROVALS_WEBHOOK_SECRET": "only for tests, no secret",
    }
    assert "without links" in own.run("doctor", **webhook).out
    reached = own.run("doctor", **webhook, CELERIAC_PUBLIC_URL="https://agents.example")
    assert "without links" not in reached.out


@pytest.mark.parametrize("revision", [None, "0001_initial"])
def test_doctor_reads_no_tables_of_another_release(
    own: CommandLine,
    postgres_server: PostgresServer,
    valkey_server: ValkeyServer,
    revision: str | None,
) -> None:
    name = postgres_server.fresh_database()
    with psycopg.connect(driver_url(postgres_server.url(name))) as connection:
        if revision is not None:
            connection.execute("CREATE TABLE alembic_version (version_num varchar(32))")
            connection.execute("INSERT INTO alembic_version VALUES (%s)", (revision,))
            connection.execute("CREATE TABLE workers (id uuid)")
    env = {"DATABASE_URL": postgres_server.url(name), "REDIS_URL": valkey_server.url()}
    result = own.run("doctor", **env)
    assert "FAIL  schema " in result.out
    assert "FAIL  workers       unknown without the schema of this release" in result.out
    assert "model server" in result.out, "the checks after it are made"
    assert result.code == 1
    postgres_server.drop_database(name)


def _report(database: Database, name: str, **said: Any) -> None:
    report = WorkerReport(
        id=uuid7(), hostname=f"{name}@here", pid=1, pool="threads", slots=8, running=0,
        cpu_percent=0.0, memory_bytes=1, version="1", **said,
    )  # fmt: skip
    with database.autocommit() as connection:
        workers.report(connection, report)


def test_doctor_names_what_is_wrong_with_workers_and_queues(
    own: CommandLine, database: str, valkey_server: ValkeyServer
) -> None:
    opened = Database(database, connections=1)
    core = Core(opened)
    core.submit.batch(core.actor, SubmitRequest(task_id=core.task, queue="reports"), [{}] * 3)
    listening = {
        "queues": ["task_execution", "crawl"], "messages_dropped": 7,
        "unknown_tasks": ["shop.add"], "unknown_tasks_ages": [90.0],
        "lacks": ["The worker finds no module 'shop'."],
    }  # fmt: skip
    app = Celery(broker=valkey_server.url(1), set_as_current=False)
    app.send_task("shop.count", queue="default")
    app.close()
    _report(opened, "deaf", consuming=False, **listening)

    def found() -> dict[tuple[str, str], str]:
        env = {"DATABASE_URL": database, "REDIS_URL": valkey_server.url()}
        findings = own.run("doctor", "--json", **env).value["findings"]
        return {(each["subject"], each["message"]): each["level"] for each in findings}

    deaf = ("workers", "deaf@here (process 1, threads) is alive and takes no messages")
    alone = found()
    assert alone[deaf] == "failed"
    assert alone["messages", "7 messages dropped for being no task"] == "warning"
    lacks = "deaf@here can't run everything: The worker finds no module 'shop'."
    assert alone["workers", lacks] == "warning"
    with opened.autocommit() as connection:
        (row,) = workers.live(connection, within_seconds=3_600)
    came = f"{row.seen_at - timedelta(seconds=90):%Y-%m-%d %H:%M:%S} UTC"
    unknown = "of tasks that a worker doesn't know came in the last five minutes: "
    assert alone["messages", f"{unknown}shop.add (last {came})"] == "warning"
    broker = next(message for subject, message in alone if subject == "broker")
    empty = {*QUEUES, "crawl", "reports"} - {"default"}
    assert all(f"{queue} 0" in broker for queue in empty), "those of rows and workers too"
    assert "default 1" in broker
    assert alone["queues", "1 message in 'default', to which no worker listens"] == "warning"
    unserved = ("queues", "3 executions queued in 'reports', to which no worker listens")
    assert alone[unserved] == "warning"

    _report(opened, "good", consuming=True, queues=["reports"], confinement="bubblewrap")
    together = found()
    (good,) = [message for _, message in together if message.startswith("good@here")]
    assert good.endswith("its agents are confined by bubblewrap")
    assert together[deaf] == "warning", "another worker takes messages"
    assert unserved not in together
    opened.close()


@pytest.mark.parametrize(
    "arguments", [("up", "--pool", "gevent"), ("worker", "-P", "eventlet"), ("up", "-I", "nosuch")]
)
def test_what_a_worker_cannot_be_is_refused_in_one_sentence(
    own: CommandLine, arguments: tuple[str, ...]
) -> None:
    result = own.run(*arguments)
    assert result.code == 2
    assert len(result.err.strip().splitlines()) == 1
    assert "not supported" in result.err or "there is no module" in result.err


def test_a_module_that_cannot_be_imported_is_told_with_its_own_frames(
    own: CommandLine, database: str, valkey_server: ValkeyServer
) -> None:
    (own.directory / "helper.py").write_text("def price(of):\n    return {}[of]\n")
    (own.directory / "shop.py").write_text("import helper\n\nPRICE = helper.price('tea')\n")
    env = {"DATABASE_URL": database, "REDIS_URL": valkey_server.url(), "PYTHONWARNINGS": "ignore"}
    for result in (
        own.run("worker", "--include", "shop", **env),
        own.run("worker", CELERIAC_CELERY_INCLUDE="shop", **env),
        own.run("beat", CELERIAC_CELERY_INCLUDE="shop", **env),
        own.run("up", "--no-model", "--port", "0", "--include", "shop", "--json", **env),
    ):
        assert result.code == 2, result.err
        line, *frames = result.err[result.err.index("error: ") :].splitlines()
        assert "The module 'shop' can't be imported: KeyError: 'tea'" in line
        shown = [frame for frame in frames if frame.startswith("  File")]
        assert shown == [
            f'  File "{own.directory}/shop.py", line 3, in <module>',
            f'  File "{own.directory}/helper.py", line 2, in price',
        ]
        assert frames[-1].startswith("KeyError: 'tea'")


@pytest.mark.parametrize("command", [("inspect", "ping"), ("worker",), ("beat",), ("report",)])
def test_celery_without_servers_is_told_one_sentence(
    own: CommandLine, command: tuple[str, ...]
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "celery", "-A", "celeriac", *command],
        env=own.env, cwd=own.directory, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.startswith("error: REDIS_URL is not set.")
    assert len(done.stderr.strip().splitlines()) == 1


def _inspect(commands: CommandLine, what: str, **env: str) -> Any:
    """Return what the worker `mine@here` answers to `celery inspect`."""
    arguments = ("inspect", what, "--destination", "mine@here", "--json")
    done = subprocess.run(
        [sys.executable, "-m", "celery", "-A", "celeriac", *arguments],
        env={**commands.env, **env},
        cwd=commands.directory,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return json.loads(done.stdout)["mine@here"]
