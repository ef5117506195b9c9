"""Nothing is lost silently, and nothing the disk does reaches the caller."""

import os
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from celeriac.logs.writer import Destinations, Entry, Writer

CapturedFd = pytest.CaptureFixture[str]


def entry(text: str, execution_id: str | None = None, error_date: str | None = None) -> Entry:
    line = f"{text}\n".encode()
    return Entry(line, line, execution_id, error_date)


def destinations(directory: Path, console: int | None = None) -> Destinations:
    return Destinations(
        console=console,
        report=lambda kind, lines: entry(f"lost {lines} for {kind}"),
        directory=directory,
        service_file="service.log",
    )


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[Writer]:
    writer = Writer(destinations(tmp_path))
    yield writer
    writer.close()


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines()


def test_no_thread_runs_before_the_first_line(writer: Writer) -> None:
    assert not [thread for thread in threading.enumerate() if thread.name == "celeriac-logs"]
    writer.submit(entry("x"))
    assert [thread for thread in threading.enumerate() if thread.name == "celeriac-logs"]


def test_lines_of_many_threads_all_arrive_each_thread_in_order(
    writer: Writer, tmp_path: Path
) -> None:
    def work(name: int) -> None:
        for number in range(200):
            writer.submit(entry(f"{name} {number}", execution_id=str(name)))

    threads = [threading.Thread(target=work, args=(name,)) for name in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert writer.flush()
    assert len(lines(tmp_path / "service.log")) == 1600
    for name in range(8):
        expected = [f"{name} {number}" for number in range(200)]
        assert lines(tmp_path / f"task-execution-{name}.log") == expected


def test_lines_appear_without_anyone_asking(tmp_path: Path) -> None:
    written = threading.Event()

    class Watched(Destinations):
        def write(self, entries: object, *, overflow: int = 0) -> None:
            written.set()

    writer = Writer(Watched(console=None, report=lambda *_: entry("")), interval=0.01)
    writer.submit(entry("x"))
    assert written.wait(30), "the background thread writes by itself"
    writer.close()


def test_close_writes_what_waits_and_later_lines_are_written_at_once(tmp_path: Path) -> None:
    writer = Writer(destinations(tmp_path), interval=60)
    writer.submit(entry("waiting"))
    assert writer.close()
    writer.submit(entry("late"))
    assert lines(tmp_path / "service.log") == ["waiting", "late"]


def test_closing_twice_is_harmless(writer: Writer) -> None:
    writer.submit(entry("x"))
    assert writer.close()
    assert writer.close()


def test_a_file_that_was_moved_away_is_made_anew(writer: Writer, tmp_path: Path) -> None:
    writer.submit(entry("one"))
    writer.flush()
    (tmp_path / "service.log").rename(tmp_path / "service.log.1")
    writer.submit(entry("two"))
    writer.flush()
    assert lines(tmp_path / "service.log") == ["two"]


def test_a_directory_that_was_removed_is_made_anew(writer: Writer, tmp_path: Path) -> None:
    writer.submit(entry("x", execution_id="e", error_date="2026-01-01"))
    writer.flush()
    assert lines(tmp_path / "errors" / "task-errors-2026-01-01.log") == ["x"]


def test_log_files_are_not_for_everybody(writer: Writer, tmp_path: Path) -> None:
    writer.submit(entry("x"))
    writer.flush()
    assert not stat.S_IMODE((tmp_path / "service.log").stat().st_mode) & stat.S_IRWXO


def test_lost_lines_are_told_once_counted_and_reported_when_it_works_again(
    tmp_path: Path, capfd: CapturedFd
) -> None:
    writer = Writer(destinations(tmp_path))
    obstacle = tmp_path / "service.log"
    obstacle.mkdir()
    for text in ("one", "two"):
        writer.submit(entry(text))
        writer.flush()
    (complaint,) = capfd.readouterr().err.splitlines()
    assert complaint.startswith(f"celeriac logs: cannot write to {obstacle}: Is a directory; ")
    obstacle.rmdir()
    writer.submit(entry("three"))
    writer.close()
    assert lines(obstacle) == ["three", "lost 2 for service"]
    assert capfd.readouterr().err == ""


def test_a_full_disk_is_an_outage_like_any_other(tmp_path: Path, capfd: CapturedFd) -> None:
    (tmp_path / "service.log").symlink_to("/dev/full")
    writer = Writer(destinations(tmp_path))
    writer.submit(entry("one"))
    writer.close()
    first, second = capfd.readouterr().err.splitlines()
    assert "No space left on device" in first
    assert second == "celeriac logs: lost 1 line for service"


def test_a_stuck_console_holds_up_nobody_and_its_overflow_is_counted(tmp_path: Path) -> None:
    reader, console = os.pipe()
    writer = Writer(destinations(tmp_path, console), interval=0, capacity=10)
    writer.submit(entry("x" * 1_000_000))  # more than a pipe holds: the thread blocks
    assert not writer.flush(timeout=0.05), "the reader does not read"
    for number in range(100):
        writer.submit(entry(f"line {number}"))
    received = b""
    while b"for queue" not in received:
        received += os.read(reader, 1_000_000)
    writer.close()
    os.close(reader)
    os.close(console)
    kept = sum(line.startswith("line") for line in lines(tmp_path / "service.log"))
    assert kept < 100
    assert f"lost {100 - kept} for queue" in lines(tmp_path / "service.log")


def test_a_full_non_blocking_console_is_waited_for(tmp_path: Path) -> None:
    reader, console = os.pipe()
    os.set_blocking(console, False)
    writer = Writer(destinations(tmp_path, console), interval=0)
    text = "x" * 300_000
    writer.submit(entry(text))
    received = b""
    while len(received) <= len(text):
        received += os.read(reader, 100_000)
    assert received == f"{text}\n".encode()
    writer.close()
    os.close(reader)
    os.close(console)
