"""PostgreSQL keeps data, recovers, and says plainly what keeps it from starting."""

import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import psycopg
import pytest

from celeriac.embedded.errors import HomeUnusableError, ServerFailedError
from celeriac.embedded.home import Home
from celeriac.embedded.postgres import Postgres
from celeriac.embedded.process import ManagedProcess
from tests.support.processes import start_and_wait
from tests.support.servers import PostgresServer

OTHER_PROCESS = os.getppid()


@contextmanager
def serving(home: Home) -> Iterator[PostgresServer]:
    server = PostgresServer(home)
    try:
        server.start()
        yield server
    finally:
        server.kill()


def test_a_clean_stop_keeps_the_data_and_takes_no_force(home: Home) -> None:
    with serving(home) as server:
        _query(server, "CREATE TABLE kept AS SELECT 42 AS value")
        server.stop()
        assert server.exit_code == 0, "SIGINT asks for a fast and clean shutdown"
    with serving(home) as server:
        assert _query(server, "SELECT value FROM kept") == [(42,)]


def test_a_kill_keeps_what_was_committed(home: Home) -> None:
    with serving(home) as server:
        _query(server, "CREATE TABLE kept AS SELECT 42 AS value")
        server.kill()
        assert server.exit_code == -signal.SIGKILL
        server.start()
        assert _query(server, "SELECT value FROM kept") == [(42,)]


def test_the_product_syncs_to_disk_and_only_asked_for_does_not(home: Home) -> None:
    assert "fsync" not in Postgres.prepare(home).settings, "PostgreSQL's own default is on"
    assert Postgres.prepare(home, fast_unsafe=True).settings["fsync"] == "off"


def test_only_the_password_of_the_home_opens_it(home: Home) -> None:
    with serving(home) as server:
        url = server.url("celeriac").replace(home.secret("postgres"), "wrong")
        with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
            psycopg.connect(_libpq(url))
        assert not _listening_ports(server.pid), "it is reached by its socket alone"


def test_no_command_line_shows_the_password(home: Home) -> None:
    with serving(home) as server:
        assert home.secret("postgres") not in Path(f"/proc/{server.pid}/cmdline").read_text()
    assert home.secret("postgres") not in home.log_file("postgres").read_text()


@pytest.mark.parametrize("pid", [OTHER_PROCESS, 2**22 - 1])
def test_a_pid_file_of_a_killed_server_keeps_nobody_out(home: Home, pid: int) -> None:
    with serving(home) as server:
        server.kill()
        lock = home.postgres / "postmaster.pid"
        _, rest = lock.read_text().split("\n", 1)
        lock.write_text(f"{pid}\n{rest}")
        for socket_lock in (home.root / "run").glob("*.lock"):
            socket_lock.write_text(f"{pid}\n{rest}")
    with serving(home) as server:
        assert _query(server, "SELECT 1") == [(1,)]


def test_an_interrupted_creation_is_begun_again(home: Home) -> None:
    half = home.root / "postgres.new"
    half.mkdir()
    (half / "PG_VERSION").write_text("18\n")
    with serving(home) as server:
        assert _query(server, "SELECT 1") == [(1,)]
    assert not half.exists()


def test_a_directory_that_holds_no_cluster_is_named_and_left_alone(home: Home) -> None:
    home.postgres.mkdir()
    (home.postgres / "thesis.txt").write_text("years of work")
    with pytest.raises(HomeUnusableError, match=r"home/postgres: not a PostgreSQL data directory"):
        Postgres.prepare(home)
    assert (home.postgres / "thesis.txt").read_text() == "years of work"


def test_data_of_another_major_version_are_refused_with_the_way_out(home: Home) -> None:
    Postgres.prepare(home, fast_unsafe=True)
    (home.postgres / "PG_VERSION").write_text("17\n")
    with pytest.raises(ServerFailedError, match="made by PostgreSQL 17, and this is 18"):
        Postgres.prepare(home)


def test_damaged_data_fail_with_the_servers_own_words(home: Home) -> None:
    postgres = Postgres.prepare(home, fast_unsafe=True)
    shutil.rmtree(home.postgres / "global")
    process = ManagedProcess(postgres.spec(), home.log_file("postgres"))
    with pytest.raises(ServerFailedError) as caught:
        start_and_wait(process)
    message = str(caught.value)
    assert message.startswith("postgres: it ended by itself (exit code 2).")
    assert "could not find the database system" in message
    assert str(home.log_file("postgres")) in message


def test_a_full_disk_fails_in_plain_words_and_the_next_start_succeeds(home: Home) -> None:
    program = (
        "import sys; from pathlib import Path; from celeriac.embedded.home import Home; "
        "from celeriac.embedded.postgres import Postgres; "
        "Postgres.prepare(Home.open(Path(sys.argv[1])), fast_unsafe=True)"
    )
    answer = subprocess.run(
        [sys.executable, "-c", program, str(home.root)],
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000)),
    )
    assert "ServerFailedError: postgres: it failed" in answer.stderr
    assert f"Log: {home.log_file('postgres')}" in answer.stderr
    assert not home.postgres.exists(), "half a data directory must not pass for a whole one"
    with serving(home) as server:
        assert _query(server, "SELECT 1") == [(1,)]


def _query(server: PostgresServer, query: str) -> list[tuple[object, ...]]:
    with psycopg.connect(_libpq(server.url("celeriac"))) as connection:
        cursor = connection.execute(query.encode())
        return cursor.fetchall() if cursor.description else []


def _libpq(url: str) -> str:
    return url.replace("postgresql+psycopg://", "postgresql://", 1)


def _listening_ports(pid: int) -> list[int]:
    connections = psutil.Process(pid).net_connections(kind="tcp")
    return [each.laddr.port for each in connections if each.status == psutil.CONN_LISTEN]
