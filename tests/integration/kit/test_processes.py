"""Process groups, on real processes."""

import asyncio
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from celeriac.kit import processes
from celeriac.kit.child_bootstrap import CANNOT_EXECUTE
from celeriac.kit.processes import (
    ProcessIdentity,
    ResourceLimits,
    UserIds,
    find_members,
    identify,
    launch,
    send_signal,
    still_running,
    terminate_group,
    terminate_group_async,
)
from tests.support.programs import REPOSITORY
from tests.support.users import normal_user
from tests.support.waiting import wait_until

FAMILY = """
trap '' TERM
sleep 600 &
near=$!
setsid sleep 600 &
own_session=$!
daemon=$(setsid sh -c 'sleep 600 >/dev/null & echo $!')
echo $$ $near $own_session $daemon > pids.part
mv pids.part pids
wait
"""
MARKER = "FAMILY=of-this-test"


@pytest.fixture
def family(tmp_path: Path) -> Iterator[list[ProcessIdentity]]:
    """A leader that ignores SIGTERM, its child, one with a session of its own, and a daemon."""
    name, _, value = MARKER.partition("=")
    environment = {"PATH": os.environ["PATH"], name: value}
    process = launch(["sh", "-c", FAMILY], env=environment, cwd=tmp_path)
    try:
        wait_until((tmp_path / "pids").exists, "the family is complete")
        found = [identify(int(pid)) for pid in (tmp_path / "pids").read_text().split()]
        yield [each for each in found if each is not None]
    finally:
        terminate_group(process.pid, 0, marker=MARKER)
        process.wait(timeout=60)


def test_members_are_found_in_their_own_sessions_too(family: list[ProcessIdentity]) -> None:
    leader, near, own_session, daemon = family

    assert find_members(leader) >= {leader, near, own_session}
    assert find_members(leader, marker=MARKER) >= set(family)
    assert daemon not in find_members(leader), "only the marker ties it to its family"


def test_members_are_found_after_their_leader_died(family: list[ProcessIdentity]) -> None:
    leader, near, *_ = family
    send_signal(leader, signal.SIGKILL)
    wait_until(lambda: not still_running(leader), "the leader is dead")

    assert find_members(leader) == {near}


def test_ending_a_group_ends_all_of_it(family: list[ProcessIdentity]) -> None:
    survivors = terminate_group(family[0], 0.2, marker=MARKER)

    assert not survivors
    assert not [each for each in family if still_running(each)]


def test_ending_a_group_works_on_an_event_loop(family: list[ProcessIdentity]) -> None:
    survivors = asyncio.run(terminate_group_async(family[0], 0.2, marker=MARKER))

    assert not survivors
    assert not [each for each in family if still_running(each)]


_WITHOUT_CAPABILITIES = """
import ctypes, os, sys
for number in map(int, sys.argv[1].split(",")):
    assert ctypes.CDLL(None).prctl(24, number, 0, 0, 0) == 0  # PR_CAPBSET_DROP
os.execv(sys.executable, [sys.executable, "-c", *sys.argv[2:]])
"""
_FIND_DAEMON = """
import os, sys
from celeriac.kit.processes import ProcessIdentity, find_members
# of a leader that has ended, and was older than the daemon
found = find_members(ProcessIdentity(pid=os.getpid(), started=1), marker=sys.argv[1])
print(int(sys.argv[2]) in {each.pid for each in found}, os.geteuid(), os.access("/root", os.R_OK))
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="root without CAP_SYS_PTRACE, as in containers")
def test_root_finds_the_processes_of_another_user_in_a_container_too(tmp_path: Path) -> None:
    name, _, value = MARKER.partition("=")
    daemon = launch(["sleep", "600"], env={name: value}, become=UserIds(65534, 65534), cwd="/")
    wait_until(lambda: Path(f"/proc/{daemon.pid}/comm").read_text() == "sleep\n", "it runs")
    ptrace_admin_perfmon = "19,21,38"
    try:
        told = subprocess.run(
            [
                *(sys.executable, "-c", _WITHOUT_CAPABILITIES, ptrace_admin_perfmon),
                *(_FIND_DAEMON, MARKER, str(daemon.pid)),
            ],
            env={"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True,
            text=True,
            check=True,
        )
    finally:
        terminate_group(daemon.pid, 0)
        daemon.wait(timeout=60)

    assert told.stdout.split() == ["True", "0", "True"], "and it is root again afterwards"


_HIDING = """
import subprocess, sys
sys.path[:0] = [sys.argv[1]]
from celeriac.kit.child_bootstrap import hide_memory
if sys.argv[2] == "hidden":
    hide_memory()
read = "import os; print(b'SECRET' in open(f'/proc/{os.getppid()}/environ', 'rb').read())"
subprocess.run([sys.executable, "-c", read], env={})
"""


@pytest.mark.parametrize(("how", "told"), [("plain", "True"), ("hidden", "Permission denied")])
def test_a_process_hides_its_memory_from_others_of_its_user(how: str, told: str) -> None:
    user = normal_user()
    child = subprocess.run(
        [*user.prefix, sys.executable, "-c", _HIDING, str(REPOSITORY), how],
        env={"PATH": os.environ["PATH"], "SECRET": "s"},
        capture_output=True,
        text=True,
        check=True,
        cwd="/",
    )
    assert told in child.stdout + child.stderr


def test_a_stopped_process_gets_its_chance_to_end(tmp_path: Path) -> None:
    script = "trap 'echo bye > said; exit 0' TERM; touch ready; while :; do sleep 0.01; done"
    process = launch(["sh", "-c", script], cwd=tmp_path)
    wait_until((tmp_path / "ready").exists, "the trap is set")
    process.send_signal(signal.SIGSTOP)

    terminate_group(process.pid, 10)

    assert (tmp_path / "said").exists()
    assert process.wait(timeout=60) == 0


def test_a_recycled_pid_is_never_hit() -> None:
    process = launch(["sleep", "600"])
    present = identify(process.pid)
    assert present is not None
    earlier = replace(present, started=present.started - 1)

    assert not still_running(earlier)
    assert not send_signal(earlier, signal.SIGKILL)
    assert find_members(earlier) == frozenset()
    assert terminate_group(earlier, 0) == frozenset()
    assert process.poll() is None, "the process that has the pid now lives on"

    terminate_group(present, 0)
    assert process.wait(timeout=60) == -signal.SIGKILL


def test_environments_are_read_of_those_only_that_could_belong(
    family: list[ProcessIdentity], monkeypatch: pytest.MonkeyPatch
) -> None:
    leader, near, own_session, daemon = family
    read: list[int] = []

    def noting(pid: int, name: str) -> bytes | None:
        if name == "environ":
            read.append(pid)
        return read_file(pid, name)

    read_file = processes.read_of_process
    monkeypatch.setattr(processes, "read_of_process", noting)

    assert find_members(leader, marker=MARKER) >= set(family)
    assert daemon.pid in read
    assert not {leader.pid, near.pid, own_session.pid} & set(read), "their ties are enough"
    older = [pid for pid in read if (found := identify(pid)) and found.started < leader.started]
    assert not older, "what is older than the leader can't have come from it"


def test_the_table_of_processes_is_read_off_the_event_loop(
    family: list[ProcessIdentity], monkeypatch: pytest.MonkeyPatch
) -> None:
    readers: set[int] = set()

    def noting(pid: int, name: str) -> bytes | None:
        readers.add(threading.get_ident())
        return read_file(pid, name)

    read_file = processes.read_of_process
    monkeypatch.setattr(processes, "read_of_process", noting)

    assert asyncio.run(terminate_group_async(family[0], 0, marker=MARKER)) == frozenset()
    assert readers
    assert threading.get_ident() not in readers


def test_children_get_the_soft_limit_of_open_files_back() -> None:
    script = (
        "import resource, subprocess, sys; "
        "from celeriac.kit.processes import launch, raise_descriptor_limit; "
        "hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]; "
        "resource.setrlimit(resource.RLIMIT_NOFILE, (200, hard)); "
        "assert raise_descriptor_limit() == hard == raise_descriptor_limit(); "
        "assert resource.getrlimit(resource.RLIMIT_NOFILE) == (hard, hard); "
        "child = launch(['sh', '-c', 'ulimit -Sn; ulimit -Hn'], stdout=subprocess.PIPE); "
        "soft, its_hard = child.communicate()[0].split(); "
        "assert (int(soft), int(its_hard)) == (200, hard), (soft, its_hard)"
    )
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(sys.path)}
    ended = subprocess.run([sys.executable, "-c", script], env=environment, check=False, timeout=60)

    assert ended.returncode == 0


def test_ending_what_has_gone_does_nothing() -> None:
    process = launch(["true"])
    process.wait(timeout=60)

    assert terminate_group(process.pid, 1) == frozenset()


def test_a_child_leads_its_session_and_writes_no_core() -> None:
    script = (
        "import os, resource, signal; "
        "assert os.getsid(0) == os.getpid() == os.getpgrp(); "
        "assert resource.getrlimit(resource.RLIMIT_CORE) == (0, 0); "
        "assert resource.getrlimit(resource.RLIMIT_DATA)[0] == 2 ** 28; "
    )
    process = launch([sys.executable, "-c", script], limits=ResourceLimits(memory=2**28))

    assert process.wait(timeout=60) == 0


def test_signals_that_we_ignore_work_in_a_child() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        process = launch(["sleep", "600"])
    finally:
        signal.signal(signal.SIGINT, before)
    wait_until(
        lambda: Path(f"/proc/{process.pid}/comm").read_text() == "sleep\n",
        "the guard has become sleep",
    )

    process.send_signal(signal.SIGINT)

    assert process.wait(timeout=60) == -signal.SIGINT


def test_processor_time_is_limited() -> None:
    process = launch(["sh", "-c", "while :; do :; done"], limits=ResourceLimits(cpu_seconds=1))

    assert process.wait(timeout=60) == -signal.SIGXCPU


def test_a_program_that_cannot_be_run_says_so() -> None:
    process = launch(["no-such-program"], stderr=subprocess.PIPE)
    _, stderr = process.communicate(timeout=60)

    assert process.returncode == CANNOT_EXECUTE
    assert stderr == b"cannot run no-such-program: No such file or directory\n"


@pytest.mark.parametrize("become", ["None", "UserIds(65534, 65534)"])
def test_a_child_dies_with_its_parent(tmp_path: Path, become: str) -> None:
    if become != "None" and os.geteuid() != 0:
        pytest.skip("only root can start a process as another user")
    script = (
        "import os, time; from celeriac.kit.processes import UserIds, launch; "
        f"process = launch(['sleep', '600'], become={become}); "
        "open('pid.part', 'w').write(str(process.pid)); os.rename('pid.part', 'pid'); "
        "time.sleep(600)"
    )
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(sys.path)}
    parent = subprocess.Popen([sys.executable, "-c", script], cwd=tmp_path, env=environment)
    wait_until((tmp_path / "pid").exists, "the child has started")
    child = identify(int((tmp_path / "pid").read_text()))
    assert child is not None

    parent.kill()
    parent.wait(timeout=60)

    wait_until(lambda: not still_running(child), "the child has died too")
