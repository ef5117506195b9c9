"""Times and processor time of statements that one connection sends."""

import time
from collections.abc import Callable
from pathlib import Path

import psutil
from sqlalchemy import text

from benchmarks.figures import percentiles
from celeriac.db.engine import Database

WARM = 10
"""Calls before the measured ones."""


_BLOCKS = 10


class Meter:
    """Measures work, called one after the other.

    Besides the times, the processor time of this process and of its connections: what else the
    machine does hardly changes that. How fast the processor is at that moment does, so a reference
    of constant work is measured between.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def times(self, work: Callable[[], object], samples: int) -> dict[str, float]:
        """Return percentiles of the time, the mean processor time, and that in references."""
        for _ in range(WARM):
            work()
            self._reference()
        taken: list[float] = []
        spent = reference = 0.0
        sizes = [len(range(first, samples, _BLOCKS)) for first in range(min(_BLOCKS, samples))]
        for size in sizes:
            taken_now, spent_now = self._block(work, size)
            taken += taken_now
            spent += spent_now
            reference += self._block(self._reference, size)[1]
        return percentiles(taken) | {
            "processor_ms": round(spent * 1000 / samples, 2),
            "references": round(spent / reference, 3),
        }

    def _block(self, work: Callable[[], object], count: int) -> tuple[list[float], float]:
        """Return how long each call took, and the processor time of all."""
        taken, began = [], self.processor()
        for _ in range(count):
            begin = time.perf_counter()
            work()
            taken.append(time.perf_counter() - begin)
        return taken, self.processor() - began

    def _reference(self) -> None:
        """Do constant work, here and in the server: some milliseconds."""
        with self._database.autocommit() as connection:
            connection.execute(_REFERENCE).scalar_one()
        sum(range(50_000))

    def processor(self) -> float:
        """Return the processor time until now, in seconds."""
        with self._database.autocommit() as connection:
            pids = connection.execute(_BACKENDS).scalars()
            return time.process_time() + sum(map(on_processor, pids))


def on_processor(pid: int) -> float:
    """Return how long a process of one thread has been on a processor, in seconds."""
    try:
        # in nanoseconds; the times of psutil are in hundredths of a second
        return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1_000_000_000
    except OSError:
        spent = psutil.Process(pid).cpu_times()
        return spent.user + spent.system


_BACKENDS = text("""
SELECT pid FROM pg_stat_activity
WHERE datname = current_database() AND backend_type = 'client backend'
""")

_REFERENCE = text("SELECT sum(length(md5(CAST(n AS text)))) FROM generate_series(1, 3000) AS n")
