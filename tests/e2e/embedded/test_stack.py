"""The embedded stack as a whole: started, stopped, killed, started again."""

import os
import re
import signal
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path

import psutil
import psycopg
import pytest
import redis

from celeriac.embedded.endpoints import find_running_stack
from celeriac.embedded.home import Home, find_holder
from celeriac.kit.outbound import without_password
from tests.support.places import temporary_directory
from tests.support.run_stack import FAILED
from tests.support.stack_program import StackProgram, running_stack, wait_all_gone
from tests.support.users import normal_user
from tests.support.waiting import wait_until


@pytest.fixture
def place() -> Iterator[Path]:
    with temporary_directory() as directory:
        yield directory


@pytest.fixture
def home(place: Path) -> Path:
    return place / "home"


@pytest.fixture
def small_disk(place: Path) -> Iterator[Path]:
    mount = ["mount", "-t", "tmpfs", "-o", "size=80m,mode=700", "tmpfs", str(place)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a small disk can't be mounted here")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_others_find_the_running_stack_whose_killed_servers_come_back(home: Path) -> None:
    with running_stack(home) as program:
        found = find_running_stack(Home.at(home))
        assert found is not None
        assert found.endpoints.environment()["DATABASE_URL"] == program.endpoints["database_url"]
        assert set(found.pids) == {"postgres", "valkey"}
        assert Home.at(home).stack_file.stat().st_mode & 0o077 == 0, "it holds passwords"
        _use(program)

        for name, other in (("postgres", "valkey"), ("valkey", "postgres")):
            before = _pids(home)
            os.kill(before[name], signal.SIGKILL)
            wait_until(partial(_says_twice, program, f"{name} is ready"), f"{name} is back")
            wait_until(partial(_runs_anew, home, name, before[name]), "the file names the new one")
            assert psutil.pid_exists(_pids(home)[name])
            assert _pids(home)[other] == before[other]
        _use(program)  # at the same address
    assert find_running_stack(Home.at(home)) is None
    assert find_holder(Home.at(home)) is None


def test_a_second_start_in_the_same_home_is_refused_with_the_pid_of_the_first(home: Path) -> None:
    with running_stack(home) as first:
        second = StackProgram(home, ())
        assert second.wait_end() == FAILED
        assert "already_running" in second.output
        assert f"process {first.process.pid}" in second.output
        second.close()
        _use(first)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_all_in_order_and_leaves_nothing(home: Path, number: int) -> None:
    with running_stack(home) as program:
        children = program.descendants()
        assert children
        program.process.send_signal(number)
        assert program.wait_end() == 0
        assert program.output.index("stopping valkey") < program.output.index("stopping postgres")
        assert "killing" not in program.output
        wait_all_gone(children)


def test_killing_the_supervisor_ends_its_servers_and_the_next_start_has_all_data(
    home: Path,
) -> None:
    with running_stack(home) as program:
        _write(program, "before the kill")
        children = program.descendants()
        program.kill()
        wait_all_gone(children)
        assert find_running_stack(Home.at(home)) is None, "its connection file was left behind"
    with running_stack(home) as program:
        assert _read(program) == "before the kill"


def test_the_next_start_ends_what_a_killed_run_left_frozen(home: Path) -> None:
    with running_stack(home) as program:
        valkey = _pids(home)["valkey"]
        os.kill(valkey, signal.SIGSTOP)  # it will not see the parent-death signal
        children = program.descendants()
        program.kill()
        with running_stack(home) as successor:
            assert f"ended valkey (process {valkey}) of a killed run" in successor.output
            wait_all_gone(children)
            _use(successor)


@pytest.mark.parametrize(
    "parts", [["a directory with a long name " * 3] * 3, ['it\'s, "odd" %20 ü=*']]
)
def test_a_home_path_may_be_long_or_odd(place: Path, parts: list[str]) -> None:
    home = place.joinpath(*parts, "home")
    with running_stack(home) as program:
        _use(program)
        pointer = (home / "run.path").read_text()
        assert Path(pointer).exists()
    assert not Path(pointer).exists(), "a clean stop leaves nothing among the temporary files"


def test_a_full_disk_is_named_and_room_is_all_the_cure(small_disk: Path) -> None:
    home = small_disk / "home"
    with running_stack(home) as program:
        _write(program, "before the disk was full")
    filler = small_disk / "filler"
    with pytest.raises(OSError, match="No space left"):
        _write_without_end(filler)
    program = StackProgram(home, ())
    assert program.wait_end() == FAILED
    assert re.search(r"No space left on device|is full", program.output), program.output
    assert "Traceback" not in program.output
    program.close()
    filler.unlink()
    with running_stack(home) as program:
        assert _read(program) == "before the disk was full"


def test_a_normal_user_can_run_it(place: Path) -> None:
    user = normal_user()
    home = user.own_directory(place) / "home"
    with running_stack(home, user.prefix) as program:
        _use(program)
        assert _users(program) == {user.uid}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root could")
def test_root_refuses_the_home_of_another_user(place: Path) -> None:
    home = normal_user().own_directory(place)
    program = StackProgram(home, ())
    assert program.wait_end() == FAILED
    assert "home_unusable" in program.output
    assert str(home) in program.output
    program.close()


def _write_without_end(path: Path) -> None:
    with path.open("wb", buffering=0) as file:
        while file.write(b"x" * 65536):
            pass


def _users(program: StackProgram) -> set[int]:
    """Those in whose name it runs; PostgreSQL's helpers come and go meanwhile."""
    users = set()
    for each in program.descendants():
        with suppress(psutil.NoSuchProcess):
            users.add(each.uids().real)
    return users


def _pids(home: Path) -> Mapping[str, int]:
    running = find_running_stack(Home.at(home))
    assert running is not None
    return running.pids


def _says_twice(program: StackProgram, words: str) -> bool:
    return program.output.count(words) == 2


def _runs_anew(home: Path, name: str, dead: int) -> bool:
    return _pids(home).get(name) not in {None, dead}


def _use(program: StackProgram) -> None:
    _write(program, "value")
    assert _read(program) == "value"


def _write(program: StackProgram, value: str) -> None:
    with _connect(program) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS kept (value text)")
        connection.execute("INSERT INTO kept VALUES (%s)", (value,))
    with redis.Redis.from_url(program.endpoints["redis_url"]) as client:
        client.ping()


def _read(program: StackProgram) -> str:
    with _connect(program) as connection:
        row = connection.execute("SELECT value FROM kept").fetchone()
    assert row is not None, without_password(program.endpoints["database_url"])
    return str(row[0])


def _connect(program: StackProgram) -> psycopg.Connection:
    url = program.endpoints["database_url"].replace("postgresql+psycopg://", "postgresql://", 1)
    return psycopg.connect(url, connect_timeout=5)
