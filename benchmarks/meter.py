"""Times and processor time of statements that one connection sends."""

import time
from collections.abc import Callable

import psutil
from sqlalchemy import text

from benchmarks.figures import percentiles
from celeriac.db.engine import Database

WARM = 10
"""Calls before the measured ones."""


class Meter:
    """Measures work, called one after the other.

    Besides the times, the processor time of this process and of its connections: what else the
    machine does hardly changes that.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._backends: list[psutil.Process] = []

    def times(self, work: Callable[[], object], samples: int) -> dict[str, float]:
        """Return percentiles of the time, and the mean of the processor time."""
        for _ in range(WARM):
            work()
        taken, began = [], self.processor()
        for _ in range(samples):
            begin = time.perf_counter()
            work()
            taken.append(time.perf_counter() - begin)
        processor = round((self.processor() - began) * 1000 / samples, 2)
        return percentiles(taken) | {"processor_ms": processor}

    def processor(self) -> float:
        """Return the processor time until now, in seconds."""
        with self._database.autocommit() as connection:
            pids = connection.execute(_BACKENDS).scalars()
            spent = [psutil.Process(pid).cpu_times() for pid in pids]
        return time.process_time() + sum(each.user + each.system for each in spent)


_BACKENDS = text("""
SELECT pid FROM pg_stat_activity
WHERE datname = current_database() AND backend_type = 'client backend'
""")
