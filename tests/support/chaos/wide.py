"""`python -m tests.support.chaos.wide`: one wide map-reduce whose workers are killed while it runs.

Real workers run the map, are killed one after the other and replaced. At the end the reduce has
started once, with all results in the order of the items. Meanwhile the page of the run is read over
HTTP, and its size and times are printed.
"""

import argparse
import logging
import signal
import statistics
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import httpx
import structlog
from sqlalchemy import text

from celeriac.domain.workflows.states import RunStatus
from tests.support.chaos.running import to_stderr
from tests.support.fixtures import migrated_database
from tests.support.fleet import Fleet, running_fleet
from tests.support.fleet_workflows import FleetWorkflows
from tests.support.places import temporary_directory
from tests.support.programs import Program
from tests.support.servers import running_postgres, running_valkey
from tests.support.waiting import wait_until

_WORKERS = 2
_ITEM_SECONDS = 0.2
"""Long enough that a killed worker has items."""
_READ_EVERY_SECONDS = 0.25
_ENDED = text("""
SELECT count(*) FROM executions
WHERE run_id = :id AND status IN ('completed', 'failed', 'cancelled')
""")
_TRIED_AGAIN = text("SELECT count(*) FROM executions WHERE run_id = :id AND attempt > 1")
_TIMES: dict[str, str] = {
    "CELERIAC_WORKER_LEASE_SECONDS": "4",
    "CELERIAC_KEEPER_RESEND_SECONDS": "4",
    "CELERIAC_CELERY_VISIBILITY_TIMEOUT": "8",
}
_INTERRUPTED = 130


@dataclass
class Pages:
    """What reading the page of a run has shown."""

    seconds: list[float] = field(default_factory=list)
    most_bytes: int = 0

    def said(self) -> str:
        """Return the figures as a sentence."""
        times = sorted(1000 * each for each in self.seconds)
        slow = times[len(times) * 95 // 100]
        return (
            f"its page was read {len(times)} times meanwhile: at most {self.most_bytes:,} bytes, "
            f"median {statistics.median(times):.0f} ms, p95 {slow:.0f} ms, "
            f"longest {times[-1]:.0f} ms, {sum(each > 100 for each in times)} over 100 ms"
        )


@contextmanager
def _reading(fleet: Fleet, path: str) -> Iterator[Pages]:
    """Read a page again and again while the block runs."""
    pages, done = Pages(), threading.Event()
    headers = {"Authorization": f"Bearer {fleet.key()}"}
    address = fleet.address_of(fleet.api())
    with httpx.Client(base_url=address, headers=headers, timeout=30) as client:

        def read() -> None:
            while not done.wait(_READ_EVERY_SECONDS):
                begin = time.perf_counter()
                response = client.get(path)
                pages.seconds.append(time.perf_counter() - begin)
                response.raise_for_status()
                pages.most_bytes = max(pages.most_bytes, len(response.content))

        thread = threading.Thread(target=read)
        thread.start()
        try:
            yield pages
        finally:
            done.set()
            thread.join()


def run(fleet: Fleet, *, width: int, kills: int) -> None:
    """Run a map-reduce of `width` items, and kill a worker `kills` times; assert its outcome."""
    flows = FleetWorkflows(fleet)
    fleet.beat(**_TIMES)
    workers = [_worker(fleet, number) for number in range(_WORKERS)]
    steps: dict[str, Any] = {
        "list": {"task": "give", "with": {"count": width}},
        "each": {
            "task": "pick",
            "map": "steps.list.result",
            "with": {"value": "${{ item }}", "seconds": _ITEM_SECONDS},
        },
        "all": {"task": "pick", "with": {"value": "${{ steps.each.results }}"}},
    }
    workflow = flows.define("wide", steps, returns="${{ steps.all.result }}")
    begin = time.perf_counter()
    run_id = flows.start(workflow)
    with _reading(fleet, f"/api/v1/workflow-runs/{run_id}") as pages:
        for number in range(1, kills + 1):
            share = width * number // (kills + 1)
            _wait_ended(fleet, run_id, share)
            workers.pop(0).kill()
            to_stderr(f"{share:,} of {width:,} items have ended: a worker is killed")
            workers.append(_worker(fleet, _WORKERS + number))
        _wait_ended(fleet, run_id, width)
        ran = flows.ended(run_id, within=600)
    seconds = time.perf_counter() - begin

    assert ran.status is RunStatus.COMPLETED, ran.run
    assert ran.result == list(range(width)), "results are not all there, in order"
    step = ran.steps["each"]
    assert (step.completed, step.failed, step.cancelled, step.remaining) == (width, 0, 0, 0)
    assert flows.made(run_id) == {"list": 1, "each": width, "all": 1}
    again = fleet.scalar(_TRIED_AGAIN, id=run_id)
    sys.stdout.write(
        f"{width:,} items in {seconds:.1f} s, {kills} workers killed, {again} items tried again; "
        f"the reduce started once, with all results in order\n{pages.said()}\n"
    )


def _worker(fleet: Fleet, number: int) -> Program:
    return fleet.worker(f"w{number}", options=(), pool="threads", slots=8, **_TIMES)


def _wait_ended(fleet: Fleet, run_id: UUID, count: int) -> None:
    wait_until(lambda: fleet.scalar(_ENDED, id=run_id) >= count, f"{count} have ended", within=600)


def main() -> int:
    """Run what the arguments say."""
    parser = argparse.ArgumentParser(prog="python -m tests.support.chaos.wide", description=__doc__)
    parser.add_argument("--width", type=int, default=10_000, help="items of the map")
    parser.add_argument("--kills", type=int, default=4, help="workers that are killed")
    arguments = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with (
            temporary_directory() as home,
            running_postgres() as postgres,
            running_valkey() as valkey,
        ):
            url = postgres.url(migrated_database(postgres))
            with running_fleet(home, database_url=url, redis_url=valkey.url()) as fleet:
                run(fleet, width=arguments.width, kills=arguments.kills)
    except KeyboardInterrupt:
        sys.stderr.write("interrupted: everything was stopped\n")
        return _INTERRUPTED
    return 0


if __name__ == "__main__":
    sys.exit(main())
