"""`celeriac up`: started, used, stopped, killed, started again."""

import shlex
import signal
from collections.abc import Iterator
from functools import partial

import psutil
import psycopg
import pytest

from celeriac.cli.up import FUNCTION_STEPS
from celeriac.embedded.home import Home
from tests.support.command_line import CommandLine, RunningUp, running_up
from tests.support.outages import driver_url
from tests.support.places import temporary_directory
from tests.support.servers import PostgresServer
from tests.support.stack_program import wait_all_gone
from tests.support.waiting import wait_until

_AGENTS = "tests.support.fleet_agents"


@pytest.fixture
def own() -> Iterator[CommandLine]:
    """A command line with a fresh home."""
    with temporary_directory() as directory:
        modules = '["tests.support.fleet_agents"]'
        yield CommandLine(directory, CELERIAC_AGENT_MODULES=modules)


def test_what_is_proposed_without_a_model_works() -> None:
    code = [step[2:] for step in FUNCTION_STEPS if step.startswith(("  async", "      "))]
    with temporary_directory() as directory:
        (directory / "hello.py").write_text("\n".join(code))
        commands = CommandLine(directory, CELERIAC_AGENT_MODULES="hello")
        last = ""
        with running_up(commands):
            steps = [shlex.split(step) for step in FUNCTION_STEPS if step.startswith("  celeriac")]
            for _, *words in steps:
                result = commands.run(*words)
                assert result.code == 0, (words, result.err)
                last = result.out.strip()
            assert last == "42"


def test_from_nothing_to_a_result_and_back(own: CommandLine) -> None:
    with running_up(own) as up:
        children = psutil.Process(up.program.pid).children(recursive=True)
        assert set(up.facts["pids"]) == {"postgres", "valkey", "worker", "beat", "api"}
        _run_something(up, own)
        key = own.home / "secrets" / "admin_api_key"
        assert str(key) == up.facts["key_file"]
        assert key.stat().st_mode & 0o077 == 0, "only its owner may read the key"

        up.program.signal(signal.SIGINT)
        assert up.program.wait_end(within=60) == 0
        wait_all_gone(children)
        order = [up.text.index(f"stopping {name}") for name in
                 ("api", "beat", "worker", "valkey", "postgres")]  # fmt: skip
        assert order == sorted(order)
        assert "killing" not in up.text
    result = own.run("tasks", "list")
    assert result.code == 5, "the stopped system is not found"
    assert "celeriac up" in result.err


def test_a_second_one_in_the_same_home_says_who_runs(up: RunningUp, commands: CommandLine) -> None:
    result = commands.run("up", "--port", "0", "--no-model")
    assert result.code == 1
    assert result.err.startswith("error: Celeriac is already running in")
    assert f"process {up.program.pid}" in result.err
    assert up.facts["api_url"] in result.err
    assert "[already_running]" in result.err
    port = up.facts["api_url"].rpartition(":")[2]
    same = commands.run("up", "--port", port, "--no-model")
    assert (same.code, "[already_running]" in same.err) == (1, True), "no other program has it"
    assert commands.ask("doctor")["ok"], "the first one still works"


def test_a_port_that_is_taken_is_named(up: RunningUp, commands: CommandLine) -> None:
    port = up.facts["api_url"].rpartition(":")[2]
    with temporary_directory() as other:
        result = CommandLine(other).run("up", "--port", port, "--no-model")
    assert result.code == 1
    assert f"Port {port} on 127.0.0.1 is in use by another program." in result.err
    assert "--port 0" in result.err


def test_killed_with_sigkill_it_starts_again_with_all_its_data(own: CommandLine) -> None:
    with running_up(own) as up:
        execution_id = _run_something(up, own)
        children = psutil.Process(up.program.pid).children(recursive=True)
        up.program.kill()
        wait_all_gone(children)
    with running_up(own, name="again") as again:
        with again.client() as client:
            assert client.executions.get(execution_id).status == "completed"
        assert own.ask("run", "noop", "--var", "n:=2")["result"] == {"n": 2}
        assert again.facts["key_file"] == up.facts["key_file"]


def test_a_killed_worker_is_started_again_and_the_end_says_what_it_waits_for(
    own: CommandLine,
) -> None:
    with running_up(own) as up:
        psutil.Process(up.pid("worker")).kill()
        wait_until(partial(_ready_twice, up, "worker"), "the worker is back", within=60)
        _run_something(up, own)

        up.add_function("nap", _AGENTS)
        with up.client() as client:
            started = client.executions.execute("nap", {"seconds": 60}).execution_id
            wait_until(lambda: client.executions.get(started).status == "running", "it runs")
        up.program.signal(signal.SIGINT)
        said = "Waiting up to 30 s for 1 execution; Ctrl-C again stops at once."
        wait_until(lambda: said in up.text, "it says so")
        up.program.signal(signal.SIGINT)
        assert up.program.wait_end(within=60) == 0


def test_interrupted_at_its_start_it_exits_with_130_and_leaves_nothing(own: CommandLine) -> None:
    program = own.start("up", "up", "--port", "0", "--no-model")
    wait_until(lambda: "postgres is ready" in program.output(), "a server runs", within=60)
    children = psutil.Process(program.pid).children(recursive=True)
    program.signal(signal.SIGINT)
    assert program.wait_end(within=60) == 130
    wait_all_gone(children)


def test_a_failure_at_its_start_exits_with_1_and_leaves_nothing(own: CommandLine) -> None:
    (own.directory / "broken.py").write_text("import nosuch_module\n")
    program = own.start("up", "up", "--port", "0", "--no-model", "--include", "broken")
    wait_until(lambda: "postgres is ready" in program.output(), "a server runs", within=60)
    children = psutil.Process(program.pid).children(recursive=True)
    assert program.wait_end(within=90) != 0
    wait_all_gone(children)
    assert "broken" in program.output()


def test_a_home_with_a_database_of_an_older_checkout_is_named(own: CommandLine) -> None:
    server = PostgresServer(Home.open(own.home))
    server.start()
    try:
        with psycopg.connect(driver_url(server.url("celeriac")), autocommit=True) as connection:
            connection.execute("CREATE TABLE alembic_version (version_num varchar(32))")
            connection.execute("INSERT INTO alembic_version VALUES ('0001_initial')")
    finally:
        server.kill()
    result = own.run("up", "--port", "0", "--no-model")
    assert result.code == 1
    assert "unknown schema revision 0001_initial." in result.err
    assert f"remove {own.home / 'postgres'}" in result.err
    assert "postgres is ready" in result.out
    assert "valkey is ready" not in result.out, "nothing else was started"


def test_bad_settings_are_named_before_anything_starts(own: CommandLine) -> None:
    result = own.run("up", DATABASE_URL="mysql://someone:secret@db/x")
    assert result.code == 2
    assert result.err.startswith("error: The configuration is wrong: DATABASE_URL: must begin with")
    assert "secret" not in result.err
    assert not own.home.exists()


def test_a_module_of_the_settings_that_is_nowhere_is_named(own: CommandLine) -> None:
    result = own.run("up", "--no-model", CELERIAC_CELERY_INCLUDE="json,nosuch.tasks")
    assert result.code == 2
    assert result.err.startswith("error: CELERIAC_CELERY_INCLUDE nosuch.tasks: there is no module")
    assert len(result.err.strip().splitlines()) == 1
    assert not own.home.exists()


def test_a_host_that_is_not_ours_is_named(own: CommandLine) -> None:
    result = own.run("up", "--host", "192.0.2.1", "--no-model")
    assert result.code == 2
    assert "192.0.2.1 is not an address of this machine" in result.err


def _ready_twice(up: RunningUp, name: str) -> bool:
    return up.text.count(f"{name} is ready") == 2


def _run_something(up: RunningUp, commands: CommandLine) -> str:
    """Make an agent and a task, run it, and return the execution's id."""
    up.add_function("noop", _AGENTS)
    done = commands.ask("run", "noop", "--var", "text=Hello", "--var", "n:=1")
    assert done["status"] == "completed"
    assert done["result"] == {"text": "Hello", "n": 1}
    return str(done["id"])
