"""`python -m benchmarks confinement`: how much later a confined child sends its first message.

From the call of the runner until the first message of a plain Python function has arrived, in turn
with each driver. The runner and the child are those of a worker; there is no database.
"""

import asyncio
import os
import shutil
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.figures import Figure, Target, percentiles
from benchmarks.history import say
from celeriac.agents.child.confinement import Confinement
from celeriac.agents.python.runner import PythonRunner
from celeriac.kit.sandbox import PROGRAM
from celeriac.settings import Settings
from celeriac.testing.context import MemoryRunContext
from celeriac.wiring.confinement import checked_sandbox
from tests.support.places import temporary_directory
from tests.support.run_context import python_job
from tests.support.sandboxes import confined_user, packages

_SAMPLES, _QUICK_SAMPLES = 80, 3
_WARM = 2
"""Calls with each driver before the measured ones."""
_GOAL_MS = 50.0
_NONE = "none"
_FUNCTION = "benchmarks.agents:plain_noop"
_BASE = ("PATH", "LANG", "LC_ALL")


def measure(*, quick: bool) -> Figure:
    """Measure with each driver that this machine has."""
    samples = _QUICK_SAMPLES if quick else _SAMPLES
    with temporary_directory() as base:
        base.chmod(0o755)  # the user of agents must get to its working directories
        home = base / "home"
        home.mkdir(mode=0o755)
        runners: dict[str, PythonRunner] = {}
        measured: dict[str, Any] = {}
        for driver in (_NONE, "bubblewrap", "container"):
            reason = _missing(driver)
            measured[driver] = {"skipped": reason}
            if reason is None:
                say(f"trying {driver}")
                runners[driver] = _runner(driver, home)
        taken = asyncio.run(_in_turn(runners, home / "work", samples))
    measured |= {driver: _described(taken[driver]) for driver in runners}
    targets = []
    for driver in [each for each in runners if each != _NONE]:
        later = {
            name: round(measured[driver][name] - measured[_NONE][name], 2)
            for name in ("p50_ms", "p95_ms")
        }
        measured[driver]["later_than_none"] = later
        if driver == "bubblewrap":
            targets = [
                Target(f"{driver}: later than none, {name}", value, _GOAL_MS)
                for name, value in later.items()
            ]
    return Figure(
        "How long from the start until the first message of a child of a plain function has "
        "arrived, with each driver of confinement?",
        measured,
        targets,
    )


def _missing(driver: str) -> str | None:
    """Return why a driver is not measured, or None where it is."""
    if driver == "bubblewrap" and shutil.which(PROGRAM) is None:
        return "bubblewrap is not installed: apt install bubblewrap"
    if driver == "container" and not Settings.load().confinement.container_command:
        return "CELERIAC_CONFINEMENT_CONTAINER_COMMAND is not set"
    return None


def _runner(driver: str, home: Path) -> PythonRunner:
    """Return a worker's runner; its sandbox is tried first, which raises ConfigurationError."""
    given = Settings.load().confinement.model_dump(exclude_unset=True)
    reads = [*given.get("reads", ()), sys.prefix, sys.base_prefix, packages()]
    asked = {**given, "driver": driver, "reads": reads}
    settings = Settings.load(home=home, DATABASE_URL=None, confinement=asked)
    user = confined_user()
    worker = {name: os.environ[name] for name in _BASE if name in os.environ}
    sandbox = checked_sandbox(settings, user, home / "work")
    return PythonRunner(
        modules=["benchmarks"], confinement=Confinement(worker, user=user, sandbox=sandbox)
    )


async def _in_turn(
    runners: Mapping[str, PythonRunner], works: Path, samples: int
) -> Mapping[str, Sequence[float]]:
    """Call the function in turn; return the seconds of each measured call by driver."""
    taken: dict[str, list[float]] = {driver: [] for driver in runners}
    for number in range(_WARM + samples):
        for driver, runner in runners.items():
            context = _Watched(works / f"{driver}-{number}")
            begin = time.perf_counter()
            await runner.run(python_job(_FUNCTION), context)
            if number >= _WARM:
                taken[driver].append(context.first - begin)
            shutil.rmtree(context.workdir)
    return taken


class _Watched(MemoryRunContext):
    """Knows when the first message arrived."""

    first: float

    async def progress(self, done: float, total: float | None = None, note: str = "") -> None:
        self.first = time.perf_counter()
        await super().progress(done, total, note)


def _described(seconds: Sequence[float]) -> dict[str, Any]:
    cuts = statistics.quantiles(seconds, n=20, method="inclusive")
    return {**percentiles(seconds), "p95_ms": round(cuts[18] * 1000, 2)}
