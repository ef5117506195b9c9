"""(h) No-ops per second, beside bare Celery and the peers that are installed, in turn.

All have eight threads, the same PostgreSQL and the same Valkey. They count as done when the
submitter has seen that all have succeeded.
"""

import statistics
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy import text

from benchmarks import throughput
from benchmarks.figures import Figure, Target
from benchmarks.scale import IN_BULK, ONE_BY_ONE, Scale
from benchmarks.stage import Stage

_ROOT = Path(__file__).parent.parent
_PYTHON = _ROOT / ".venv-peers" / "bin" / "python"
_CONCURRENCY = 8
_GOAL = 2.0

_DURABLE = {
    "celeriac": True,
    "bare Celery": False,
    "dramatiq": False,
    "dbos": True,
    "procrastinate": True,
}
"""All sides, in their order, and whether an accepted no-op and its result are on disk."""

_PEERS = list(_DURABLE)[2:]


def measure(stage: Stage, scale: Scale) -> Figure:
    """Measure both ways of submitting, with one worker of each side."""
    question = "How many no-ops a second, beside other libraries?"
    if not installed():
        absent = "its environment is not installed; `make bench-peers` builds it"
        return Figure(question, {name: {"absent": absent} for name in _PEERS}, [])
    make_database(stage)
    with ExitStack() as stack:
        programs = stage.programs
        stack.enter_context(programs.beat())
        stack.enter_context(programs.worker(pool="threads", concurrency=_CONCURRENCY))
        stack.enter_context(programs.bare_worker(pool="threads", concurrency=_CONCURRENCY))
        peers = {name: stack.enter_context(peer(stage, name)) for name in _PEERS}
        measured: dict[str, dict[str, Any]] = {
            name: {"durable": durable} for name, durable in _DURABLE.items()
        }
        targets = []
        for way in (IN_BULK, ONE_BY_ONE):
            sides: dict[str, throughput.Run] = {
                "celeriac": throughput.celeriac(stage, way),
                "bare Celery": throughput.bare(way),
                **{name: partial(run, way) for name, run in peers.items()},
            }
            rates = _in_turn(sides, scale)
            medians = {name: statistics.median(each) for name, each in rates.items()}
            for name, median in medians.items():
                times = round(medians["celeriac"] / median, 2)
                measured[name][way] = {
                    "per_second": [round(rate) for rate in rates[name]],
                    "median": round(median),
                    "celeriac_is_times": times,
                }
                if name in _PEERS and _DURABLE[name]:
                    targets.append(Target(f"{name}, {way}", times, _GOAL, more_is_better=True))
    return Figure(question, {"executions": scale.executions, **measured}, targets)


def _in_turn(sides: Mapping[str, throughput.Run], scale: Scale) -> dict[str, list[float]]:
    """Return the rates of each side in `scale.rounds` rounds, after it has warmed up."""
    rates: dict[str, list[float]] = {name: [] for name in sides}
    for run in sides.values():
        run(1)
        run(scale.executions // 4)
    for _ in range(scale.rounds):
        for name, run in sides.items():
            begin = time.perf_counter()
            run(scale.executions)
            rates[name].append(scale.executions / (time.perf_counter() - begin))
    return rates


def installed() -> bool:
    """Whether the environment of the peers is there."""
    return _PYTHON.exists()


def make_database(stage: Stage) -> None:
    """Create the database of the peers, if it isn't there."""
    with stage.container.database.autocommit() as connection:
        found = connection.execute(text("SELECT FROM pg_database WHERE datname = 'peers'"))
        if found.first() is None:
            connection.execute(text("CREATE DATABASE peers"))


@contextmanager
def peer(stage: Stage, name: str) -> Iterator[Callable[[str, int], None]]:
    """Run a peer's worker; yield what runs so many no-ops of it in a way."""
    module = f"benchmarks.peers.{name}"
    command = [str(_PYTHON), "-m", module]
    subprocess.run([*command, "prepare"], cwd=_ROOT, check=True, stdout=subprocess.DEVNULL)
    pipe = subprocess.PIPE
    with (
        stage.programs.run(name, module, "worker", python=str(_PYTHON)),
        subprocess.Popen([*command, "submitter"], cwd=_ROOT, stdin=pipe, stdout=pipe) as submitter,
    ):

        def run(way: str, count: int) -> None:
            assert submitter.stdin is not None
            assert submitter.stdout is not None
            submitter.stdin.write(f"{count} {way}\n".encode())
            submitter.stdin.flush()
            if not submitter.stdout.readline():
                raise RuntimeError(f"the submitter of {name} has ended")

        try:
            yield run
        finally:
            submitter.terminate()
