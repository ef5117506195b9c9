"""`python -m benchmarks deliveries`: webhooks of healthy receivers beside those that never answer.

Deliveries to ten receivers are stored at a steady rate, and the sender of beat sends them: first
alone, then beside receivers that accept each request and never answer.
"""

import statistics
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any

from sqlalchemy import text

from benchmarks.figures import Figure, Target, percentiles
from benchmarks.history import database_alone, say
from celeriac.services.webhooks.send import Sender
from tests.support.core import Core
from tests.support.webhooks import Receiver, add_deliveries, add_endpoint, receiving, sending

_HEALTHY = 10
_EACH, _QUICK_EACH = 100, 2
"""Deliveries to each healthy receiver in a round."""
_INTERVAL_SECONDS = 0.1
"""In each interval one delivery to each healthy receiver is stored."""
_DEAD = 3
_DEAD_EACH = 1_000
"""Deliveries that wait for each receiver that never answers."""
_ROUNDS, _QUICK_ROUNDS = 3, 1
_LOOK_SECONDS = 0.5
"""How long beat waits between two looks when nothing is due."""
_PATIENCE_SECONDS = 120.0

_MOST_GROWTH = 1.3


def measure(*, quick: bool) -> Figure:
    """Measure rounds without and with dead receivers, in turn."""
    each, rounds = (_QUICK_EACH, _QUICK_ROUNDS) if quick else (_EACH, _ROUNDS)
    alone: list[dict[str, Any]] = []
    beside: list[dict[str, Any]] = []
    for number in range(rounds):
        say(f"deliveries, round {number + 1}")
        alone.append(_round(each, dead=0))
        beside.append(_round(each, dead=_DEAD))
    growth = _median(beside, "p99_ms") / _median(alone, "p99_ms")
    return Figure(
        "What do receivers that never answer cost the others?",
        {
            "deliveries": _HEALTHY * each,
            "alone": alone,
            f"beside {_DEAD} that never answer": beside,
            "growth_of_p99": round(growth, 2),
        },
        [Target("growth_of_p99", round(growth, 2), _MOST_GROWTH)],
    )


def _median(rounds: list[dict[str, Any]], name: str) -> float:
    return float(statistics.median(each[name] for each in rounds))


def _round(each: int, *, dead: int) -> dict[str, Any]:
    """Return how long after their storage the deliveries reached the healthy receivers."""
    with database_alone() as database, receiving() as receiver, sending(database) as sender:
        core = Core(database)
        for number in range(dead):
            add_deliveries(core, add_endpoint(core, f"{receiver.url}/never/{number}"), _DEAD_EACH)
        healthy = [add_endpoint(core, f"{receiver.url}/ok/{number}") for number in range(_HEALTHY)]
        with _running(sender, receiver):
            for _ in range(each):
                for endpoint in healthy:
                    add_deliveries(core, endpoint, 1)
                time.sleep(_INTERVAL_SECONDS)
            _wait_for(receiver, _HEALTHY * each)
        return percentiles(_seconds(core, receiver))


@contextmanager
def _running(sender: Sender, receiver: Receiver) -> Iterator[None]:
    """Send what is due, as beat does, while the block runs."""
    ended = threading.Event()

    def run() -> None:
        while not ended.is_set():
            sender.send_due()
            ended.wait(_LOOK_SECONDS)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        sender.stop()
        receiver.release.set()
        thread.join()


def _wait_for(receiver: Receiver, count: int) -> None:
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while len(receiver.healthy()) < count:
        if time.monotonic() > deadline:
            raise TimeoutError(f"{count} deliveries have not arrived in {_PATIENCE_SECONDS:g} s")
        time.sleep(_LOOK_SECONDS)


def _seconds(core: Core, receiver: Receiver) -> list[float]:
    with core.database.autocommit() as connection:
        rows = connection.execute(text("SELECT id, created_at FROM deliveries")).all()
    stored: dict[str, datetime] = {str(row.id): row.created_at for row in rows}
    return [got.at - stored[got.id].timestamp() for got in receiver.healthy()]
