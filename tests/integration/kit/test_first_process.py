"""The first process of a container, here one that gets the orphans of its descendants."""

import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.support.programs import REPOSITORY
from tests.support.waiting import wait_until

pytestmark = pytest.mark.requirement("B14", "B8")

_PROGRAM = """
import ctypes, os, signal, subprocess, sys
from celeriac.kit.first_process import divide

libc = ctypes.CDLL(None)
assert libc.prctl(36, 1, 0, 0, 0) == 0  # PR_SET_CHILD_SUBREAPER
{first}
divide()
subprocess.run(["sh", "-c", "setsid sleep 0.2 & exit 0"], check=True)
{then}
"""
_WAIT = """
signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))
print("ready", flush=True)
signal.pause()
"""

_AS_A_USER = """
if os.getuid() == 0:
    os.setuid(65534)
    assert libc.prctl(4, 1, 0, 0, 0) == 0  # PR_SET_DUMPABLE, as a program has it that is started
"""


def _start(then: str, first: str = "") -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", _PROGRAM.format(then=then, first=first)],
        cwd=REPOSITORY,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
    )


def test_orphans_are_reaped_and_signals_passed_on() -> None:
    process = _start(_WAIT)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        first = psutil.Process(process.pid)
        wait_until(
            lambda: len(first.children(recursive=True)) == 1,
            "the orphan has ended and left no zombie",
        )
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 7
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize(
    ("then", "code"),
    [("", 0), ("sys.exit(3)", 3), ("os.kill(os.getpid(), signal.SIGKILL)", 137)],
    ids=["done", "failed", "killed"],
)
def test_it_ends_as_the_program_did(then: str, code: int) -> None:
    process = _start(then)
    process.communicate(timeout=30)
    assert process.returncode == code


def test_its_memory_is_hidden() -> None:
    """Another process of the user may not read its environment, where secrets are."""
    process = _start(_WAIT, first=_AS_A_USER)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        environment = Path(f"/proc/{process.pid}/environ")
        assert environment.stat().st_uid == 0  # the kernel's, not the user's
    finally:
        process.terminate()
        process.communicate(timeout=30)
