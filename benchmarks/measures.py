"""Figures out of samples, and waiting for a state of the database."""

import resource
import statistics
import time
from collections.abc import Sequence

from sqlalchemy import text

from celeriac.db.engine import Database

_LIVE = text(
    "SELECT count(*) FROM executions WHERE status IN ('pending', 'queued', 'running', 'waiting')"
)


def percentiles(seconds: Sequence[float]) -> dict[str, float]:
    """Return median, 99th percentile and maximum in milliseconds."""
    cuts = statistics.quantiles(seconds, n=100, method="inclusive")
    return {
        "p50_ms": round(cuts[49] * 1000, 2),
        "p99_ms": round(cuts[98] * 1000, 2),
        "max_ms": round(max(seconds) * 1000, 2),
        "samples": len(seconds),
    }


def wait_until_idle(database: Database, *, seconds: float) -> None:
    """Wait until every execution has ended; raises TimeoutError after `seconds`."""
    deadline = time.monotonic() + seconds
    while True:
        with database.statement() as connection:
            left = connection.execute(_LIVE).scalar_one()
        if left == 0:
            return
        if time.monotonic() > deadline:
            raise TimeoutError(f"{left} executions have not ended within {seconds:g} s")
        time.sleep(0.02)


def processor_seconds() -> float:
    """Return the processor time of this process so far."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime
