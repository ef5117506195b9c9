"""Reading the log of an execution in parts: partial lines, rotation, bounds, links, secrets."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from celeriac import logs
from celeriac.kit.json_types import dumps
from celeriac.logs.execution_log import MOST_BYTES, ExecutionLog, Follower, Part, Position
from celeriac.logs.writer import execution_file
from tests.unit.logs.test_secrets import KEYS

pytestmark = pytest.mark.requirement("A16")

ID = uuid4()


def line(number: int, text: str = "") -> bytes:
    values = {
        "timestamp": "2026-11-22T09:30:00.000001Z", "level": "info", "service": "worker",
        "event": f"line {number}", "execution_id": str(ID), "text": text,
    }  # fmt: skip
    return dumps(values).encode() + b"\n"


def write(path: Path, *numbers: int, mode: str = "ab") -> None:
    with path.open(mode) as file:
        file.writelines(map(line, numbers))


def numbers(part: Part | None) -> list[int]:
    assert part is not None
    return [int(found.event.removeprefix("line ")) for found, _ in part.parsed()]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return execution_file(tmp_path, str(ID))


@pytest.fixture
def log(tmp_path: Path) -> ExecutionLog:
    return ExecutionLog(tmp_path, ID)


@pytest.fixture
def follower(log: ExecutionLog) -> Iterator[Follower]:
    made = Follower(log, None)
    yield made
    made.close()


def test_pages_follow_each_other_and_leave_an_incomplete_line(
    path: Path, log: ExecutionLog
) -> None:
    write(path, 1, 2, 3)
    with path.open("ab") as file:
        file.write(line(4)[:-20])
    first = log.read(None, most_lines=2)
    assert (numbers(first), first.more) == ([1, 2], True)
    second = log.read(Position.parse(str(first.position)), most_lines=2)
    assert numbers(second) == [3]
    with path.open("ab") as file:
        file.write(line(4)[-20:])
    assert numbers(log.read(second.position, most_lines=2)) == [4]
    assert numbers(log.tail(2)) == [3, 4]
    assert log.tail(0).position == log.tail(9).position == log.read(None, most_lines=9).position
    # of each line the position behind it
    assert numbers(log.read(first.lines[0][1], most_lines=1)) == [2]


def _renamed(path: Path) -> None:
    path.rename(path.with_suffix(".log.1"))


def _cut(path: Path) -> None:
    os.truncate(path, 0)


@pytest.mark.parametrize("rotate", [_renamed, _cut])
def test_a_page_after_a_rotation_begins_anew_and_says_so(
    path: Path, log: ExecutionLog, rotate: Callable[[Path], None]
) -> None:
    write(path, 1, 2, 3)
    seen = log.read(None, most_lines=9)
    rotate(path)
    write(path, 4)
    after = log.read(seen.position, most_lines=9)
    assert (numbers(after), after.restarted) == ([4], True)
    assert not log.read(after.position, most_lines=9).restarted


def test_a_follower_loses_and_repeats_nothing_when_the_file_is_rotated(
    path: Path, follower: Follower
) -> None:
    assert follower.read() is None
    seen: list[int] = []
    for number in range(1, 31, 3):
        write(path, number, number + 1)
        seen += numbers(follower.read(most_lines=1))
        if number % 2:
            _renamed(path)  # with a line that was not read yet
        write(path, number + 2)
        while (part := follower.read(most_lines=1)) is not None and part.lines:
            seen += numbers(part)
    assert seen == list(range(1, 31))


def test_a_link_or_a_pipe_is_no_log(path: Path, log: ExecutionLog, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(line(1))
    path.symlink_to(secret)
    for _ in range(2):
        with pytest.raises(OSError):  # noqa: PT011 - of several kinds
            log.read(None, most_lines=1)
        path.unlink()
        os.mkfifo(path)
    assert Follower(log, None).read() is None


def test_a_part_is_bounded_and_passes_what_is_no_line(path: Path, log: ExecutionLog) -> None:
    path.write_bytes(b"x" * (MOST_BYTES + 5) + b"\n" + line(1))
    part, reads = log.read(None, most_lines=9), 1
    while not part.lines or not part.parsed():
        assert sum(len(raw) for raw, _ in part.lines) <= MOST_BYTES
        part, reads = log.read(part.position, most_lines=9), reads + 1
    assert (numbers(part), reads) == ([1], 2)


@pytest.mark.parametrize("text", ["", "7", "1-2-3", "1--2", "a-1", "1-" + "9" * 40])
def test_a_malformed_position_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="next_after"):
        Position.parse(text)


def test_what_is_read_has_no_secret_of_the_corpus(tmp_path: Path, log: ExecutionLog) -> None:
    logs.configure(logs.LogOptions(service=logs.Service.WORKER, directory=tmp_path, console="off"))
    try:
        with logs.bind(execution_id=ID):
            for prefix, secret in KEYS.values():
                logs.get_logger("t").info(
                    f"called with {prefix}{secret}", note=[prefix + secret], password=secret
                )
        assert logs.flush()
    finally:
        logs.shutdown()
    part = log.read(None, most_lines=100)
    assert len(part.lines) == len(KEYS)
    text = b"\n".join(raw for raw, _ in part.lines).decode()
    assert [name for name, (_, secret) in KEYS.items() if secret[-8:] in text] == []
