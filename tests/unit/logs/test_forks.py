"""Forks, exits and several processes: each case in interpreters of its own."""

import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.support.logfiles import json_lines

PREAMBLE = """
import os, sys, threading
from pathlib import Path
from celeriac import logs

options = logs.LogOptions(service="worker", directory=Path(sys.argv[1]), console="off")
logs.configure(options)
log = logs.get_logger("t")
"""


def run(directory: Path, body: str) -> subprocess.CompletedProcess[str]:
    code = PREAMBLE + textwrap.dedent(body)
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code, str(directory)],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )


def events(directory: Path) -> list[str]:
    return [line["event"] for line in json_lines(directory / "celery-worker.log")]


def test_a_normal_exit_loses_nothing(tmp_path: Path) -> None:
    run(tmp_path, "[log.info(str(n)) for n in range(1000)]")
    assert events(tmp_path) == [str(number) for number in range(1000)]


def test_an_exit_by_exception_loses_nothing(tmp_path: Path) -> None:
    run(tmp_path, "log.info('last words'); sys.exit(0)")
    assert events(tmp_path) == ["last words"]


def test_a_crash_of_the_interpreter_names_the_place(tmp_path: Path) -> None:
    with pytest.raises(subprocess.CalledProcessError) as crashed:
        run(tmp_path, "import signal; os.kill(os.getpid(), signal.SIGSEGV)")
    assert crashed.value.returncode == -signal.SIGSEGV
    assert "Fatal Python error: Segmentation fault" in crashed.value.stderr
    assert 'File "<string>"' in crashed.value.stderr


def test_without_a_standard_error_logging_begins_all_the_same(tmp_path: Path) -> None:
    run(tmp_path, "logs.shutdown(); sys.stderr = None; logs.configure(options); log.info('here')")
    assert events(tmp_path) == ["here"]


def test_lines_logged_while_the_interpreter_ends_are_written(tmp_path: Path) -> None:
    run(
        tmp_path,
        """
        import atexit
        logs.shutdown()
        atexit.register(lambda: log.info("from an exit handler"))
        logs.configure(options)
        log.info("before")
        """,
    )
    assert events(tmp_path) == ["before", "from an exit handler"]


def test_a_fork_has_no_writer_thread_and_no_line_is_written_twice(tmp_path: Path) -> None:
    done = run(
        tmp_path,
        """
        log.info("parent before")
        pid = os.fork()
        if pid == 0:
            names = [thread.name for thread in threading.enumerate()]
            log.info("child", threads=names)
            logs.flush()
            os._exit(0)
        log.info("parent after")
        os.waitpid(pid, 0)
        """,
    )
    assert done.stderr == "", "forking must not warn of running threads"
    lines = json_lines(tmp_path / "celery-worker.log")
    assert sorted(line["event"] for line in lines) == ["child", "parent after", "parent before"]
    (child,) = [line for line in lines if line["event"] == "child"]
    assert child["threads"] == ["MainThread"]


def test_processes_share_a_file_without_mixing_lines(tmp_path: Path) -> None:
    run(
        tmp_path,
        """
        children = []
        for name in range(4):
            pid = os.fork()
            if pid == 0:
                for number in range(2000):
                    log.info(f"{name} {number}", padding="x" * (number % 500))
                    number % 100 or logs.flush()
                logs.flush()
                os._exit(0)
            children.append(pid)
        [os.waitpid(pid, 0) for pid in children]
        """,
    )
    found = events(tmp_path)
    for name in range(4):
        own = [event for event in found if event.startswith(f"{name} ")]
        assert own == [f"{name} {number}" for number in range(2000)]


def test_a_signal_handler_may_log_at_any_moment(tmp_path: Path) -> None:
    run(
        tmp_path,
        """
        import signal
        signal.signal(signal.SIGALRM, lambda *_: log.info("signal"))
        signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
        for number in range(5000):
            log.info("line")
        signal.setitimer(signal.ITIMER_REAL, 0)
        """,
    )
    assert events(tmp_path).count("line") == 5000
