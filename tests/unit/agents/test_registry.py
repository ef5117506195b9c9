"""Runners are loaded before a fork without anything that a fork would break."""

import subprocess
import sys

_PROGRAM = """
import os, sys, threading
from celeriac.settings import Settings
from celeriac.wiring.core import build_runners

def opened():
    return {os.readlink(f"/proc/self/fd/{each}") for each in os.listdir("/proc/self/fd")
            if os.path.exists(f"/proc/self/fd/{each}")}

runners = build_runners(Settings.load())
assert "pydantic_ai" not in sys.modules
before = opened()
runners.preload()
assert "pydantic_ai" in sys.modules
assert threading.active_count() == 1, threading.enumerate()
assert opened() == before, opened() - before
"""


def test_loading_runners_starts_no_thread_and_opens_nothing() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM], capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stderr
