"""The supervisor starts in order, starts again with growing pauses, gives up, stops in order."""

import io
import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from rich.console import Console

from celeriac.embedded.errors import ServerFailedError, StopRequestedError
from celeriac.embedded.home import Home
from celeriac.embedded.output import Terminal
from celeriac.embedded.process import ChildRecord, ProcessSpec
from celeriac.embedded.supervisor import RestartPolicy, Supervisor

QUICK = RestartPolicy(first_delay=0.05, longest_delay=0.15, stable_after=60)


class Shown(io.StringIO):
    """What the terminal shows, as lines."""

    @property
    def lines(self) -> list[str]:
        return self.getvalue().splitlines()


@pytest.fixture
def shown() -> Shown:
    return Shown()


@pytest.fixture
def supervisor(home: Home, shown: Shown) -> Iterator[Supervisor]:
    terminal = Terminal(Console(file=shown, width=200))
    supervisor = Supervisor(home, ChildRecord(home), terminal, policy=QUICK)
    yield supervisor
    supervisor.stop()


@pytest.fixture
def notes(place: Path) -> Path:
    """A file that children write to."""
    path = place / "notes"
    path.touch()
    return path


def script(name: str, text: str, **options: object) -> ProcessSpec:
    environment = {"PATH": os.environ["PATH"]}
    return ProcessSpec(name=name, argv=("sh", "-c", text), env=environment, **options)  # type: ignore[arg-type]


def says(path: Path, words: str) -> Callable[[], str | None]:
    return lambda: None if words in path.read_text() else f"no {words!r} yet"


def test_each_starts_when_the_one_before_it_is_ready(supervisor: Supervisor, notes: Path) -> None:
    first = f"sleep 0.2; echo first-ready >> {notes}; sleep 600"
    second = f"grep -q first-ready {notes} && echo in-order >> {notes}; sleep 600"
    supervisor.start(
        [
            script("first", first, ready=says(notes, "first-ready")),
            script("second", second, ready=says(notes, "in-order"), ready_within=60),
        ]
    )
    assert [process.spec.name for process in supervisor.processes] == ["first", "second"]


def test_all_stop_in_reverse_order(supervisor: Supervisor, notes: Path) -> None:
    names = ["first", "second", "third"]
    for name in names:
        trap = f"trap 'echo {name} >> {notes}; exit 0' TERM; echo {name}-up >> {notes}"
        waiting = f"{trap}; while :; do sleep 0.05; done"
        supervisor.start([script(name, waiting, ready=says(notes, f"{name}-up"))])
    notes.write_text("")
    supervisor.stop()
    assert notes.read_text().split() == names[::-1]


def test_a_dead_process_is_started_again(supervisor: Supervisor, home: Home, shown: Shown) -> None:
    supervisor.start([script("worker", "sleep 600")])
    process = supervisor.process("worker")
    before = process.pid
    assert before is not None
    os.kill(before, signal.SIGKILL)
    supervisor.run(until=lambda: process.pid not in (None, before))
    assert "ended by itself (killed by SIGKILL); starting it again in 0.05 s" in shown.getvalue()
    assert str(process.pid) in (home.root / "children.json").read_text(), (
        "the record names the new one"
    )


@pytest.mark.requirement("B13")
def test_one_that_dies_often_is_started_again_for_ever_and_the_others_run_on(
    supervisor: Supervisor, home: Home, shown: Shown
) -> None:
    supervisor.start([script("server", "sleep 600"), script("worker", "sleep 0.1; exit 7")])
    server = supervisor.process("server").pid
    pauses: list[str] = []

    def died_ten_times() -> bool:
        pauses[:] = [
            line.rsplit(" in ", 1)[1] for line in shown.lines if "starting it again in" in line
        ]
        return len(pauses) >= 10

    supervisor.run(until=died_ten_times)
    assert pauses[:4] == ["0.05 s", "0.1 s", "0.15 s", "0.15 s"], "doubled, up to the longest"
    assert supervisor.process("server").pid == server
    assert "(exit code 7), 4 times in a row; starting it again" in shown.getvalue()
    assert f"its log is {home.log_file('worker')}" in shown.getvalue()


def test_one_that_can_not_be_started_again_now_is_tried_later(
    supervisor: Supervisor, notes: Path, shown: Shown
) -> None:
    """What is missing for a start (here its program) may come back."""
    program = notes.with_name("program")

    def install() -> None:
        program.write_text("#!/bin/sh\nsleep 600\n")
        program.chmod(0o700)

    install()
    spec = ProcessSpec(name="worker", argv=(str(program),), env={"PATH": os.environ["PATH"]})
    supervisor.start([spec])
    process = supervisor.process("worker")
    before = process.pid
    assert before is not None
    program.unlink()
    os.kill(before, signal.SIGKILL)
    supervisor.run(until=lambda: shown.getvalue().count("cannot run") >= 2)
    install()
    supervisor.run(until=lambda: process.pid not in (None, before))


def test_who_asks_is_called_after_each_restart(supervisor: Supervisor) -> None:
    supervisor.start([script("worker", "sleep 600")])
    process = supervisor.process("worker")
    seen: list[int | None] = []
    supervisor.on_ready = lambda: seen.append(process.pid)
    for _ in range(2):
        before, count = process.pid, len(seen)
        assert before is not None
        os.kill(before, signal.SIGKILL)
        supervisor.run(until=lambda: len(seen) > count)  # noqa: B023 - called in this round
        assert seen[-1] == process.pid != before


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        ("echo no room left >&2; exit 3", "it ended by itself (exit code 3)."),
        ("echo no room left; kill -SEGV $$", "it ended by itself (killed by SIGSEGV)."),
    ],
)
def test_one_that_never_served_is_not_tried_again(
    supervisor: Supervisor, home: Home, command: str, reason: str
) -> None:
    with pytest.raises(ServerFailedError) as caught:
        supervisor.start([script("server", command, ready=lambda: "no answer")])
    assert str(caught.value).splitlines() == [
        f"server: {reason}",
        "Its last lines:",
        "  no room left",
        f"Log: {home.log_file('server')}",
    ]


def test_a_program_that_is_not_there_is_named(supervisor: Supervisor) -> None:
    missing = ProcessSpec(name="server", argv=("/nowhere/program",), ready=lambda: "no answer")
    with pytest.raises(ServerFailedError, match="cannot run /nowhere/program: No such file"):
        supervisor.start([missing])


def test_one_that_does_not_become_ready_is_ended_with_the_reason(supervisor: Supervisor) -> None:
    slow = script("server", "sleep 600", ready=lambda: "it answers 503", ready_within=0.3)
    with pytest.raises(ServerFailedError, match=r"not ready after 0 s: it answers 503"):
        supervisor.start([slow])
    assert supervisor.process("server").pid is None


def test_what_ignores_its_stop_signal_is_killed_with_its_children(
    supervisor: Supervisor, notes: Path
) -> None:
    stubborn = f"trap '' TERM; sleep 600 & echo $! > {notes}; echo ready >> {notes}; wait; wait"
    supervisor.start([script("worker", stubborn, ready=says(notes, "ready"), stop_grace=0.2)])
    grandchild = psutil.Process(int(notes.read_text().split()[0]))
    supervisor.stop()
    assert not grandchild.is_running() or grandchild.status() == psutil.STATUS_ZOMBIE


def test_a_second_request_to_stop_does_not_wait_for_the_grace_time(
    supervisor: Supervisor, notes: Path, shown: Shown
) -> None:
    stubborn = f"trap '' TERM; echo ready > {notes}; while :; do sleep 0.05; done"
    supervisor.start([script("worker", stubborn, ready=says(notes, "ready"), stop_grace=600)])
    supervisor.request_stop()
    impatience = threading.Timer(0.2, supervisor.request_stop)
    impatience.start()
    supervisor.stop()
    impatience.join()
    # the shell's own word of its end may come after it
    assert any(line.endswith("killing worker") for line in shown.lines), shown.lines


def test_a_signal_ends_run_and_handlers_come_back(supervisor: Supervisor) -> None:
    before = signal.getsignal(signal.SIGTERM)
    supervisor.start([script("worker", "sleep 600")])
    with supervisor.handling_signals():
        os.kill(os.getpid(), signal.SIGTERM)
        supervisor.run()
    assert supervisor.stop_requested
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_signal_during_the_start_ends_it(supervisor: Supervisor) -> None:
    def ask_for_the_end() -> str | None:
        supervisor.request_stop()
        return "never"

    with pytest.raises(StopRequestedError, match="while server was starting"):
        supervisor.start([script("server", "sleep 600", ready=ask_for_the_end)])


def test_output_is_shown_with_the_name_and_kept_in_a_log(
    supervisor: Supervisor, home: Home, shown: Shown
) -> None:
    supervisor.start([script("worker", "echo one; echo two >&2; sleep 600")])
    supervisor.run(until=lambda: any("two" in line for line in shown.lines))
    own = [line for line in shown.lines if line.startswith("worker")]
    assert own == ["worker   │ one", "worker   │ two"]
    assert home.log_file("worker").read_text() == "one\ntwo\n"
    assert home.log_file("worker").stat().st_mode & 0o077 == 0


def test_a_line_that_alarms_without_need_is_in_the_log_only(
    supervisor: Supervisor, home: Home, shown: Shown
) -> None:
    supervisor.start([script("worker", "echo alarm: one; echo two; sleep 600", unshown=("alarm",))])
    supervisor.run(until=lambda: any("two" in line for line in shown.lines))
    own = [line for line in shown.lines if line.startswith("worker")]
    assert own == ["worker   │ two"]
    assert home.log_file("worker").read_text() == "alarm: one\ntwo\n"
