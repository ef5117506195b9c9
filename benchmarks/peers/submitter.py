"""What the programs of all peers share."""

import os
import sys
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from types import MappingProxyType
from typing import TypeVar

import psycopg

THREADS = 8
BROKER_URL = os.environ["PEER_BROKER_URL"]
DATABASE_URL = os.environ["PEER_DATABASE_URL"]

_WITHIN_SECONDS = 120.0
_POLL_SECONDS = 0.02

T = TypeVar("T")

Run = Callable[[int], object]
"""Runs that many no-ops and returns when all have succeeded."""


def main(
    *,
    prepare: Callable[[], object] = lambda: None,
    worker: Callable[[], object],
    in_bulk: Run,
    one_by_one: Run,
    flows: Mapping[str, Run] = MappingProxyType({}),
) -> None:
    """Prepare the servers, be a worker, or run what each line of stdin names (`COUNT WAY`)."""
    role = sys.argv[1]
    if role != "submitter":
        {"prepare": prepare, "worker": worker}[role]()
        return
    ways = {"in bulk": in_bulk, "one by one": one_by_one, **flows}
    for line in sys.stdin:
        count, _, way = line.strip().partition(" ")
        ways[way](int(count))
        print("done", flush=True)


def by_threads(call: Callable[[], T], count: int) -> list[T]:
    """Call `call` so many times, from eight threads, as an API does."""
    with ThreadPoolExecutor(THREADS) as threads:
        return [future.result() for future in [threads.submit(call) for _ in range(count)]]


def wait_until_done(live: str) -> None:
    """Wait until the query `live` finds no row: all have succeeded."""
    deadline = time.monotonic() + _WITHIN_SECONDS
    with psycopg.connect(DATABASE_URL, autocommit=True) as connection:
        while connection.execute(live.encode()).fetchone() is not None:
            if time.monotonic() > deadline:
                raise TimeoutError(f"after {_WITHIN_SECONDS:g} s not all have ended")
            time.sleep(_POLL_SECONDS)
