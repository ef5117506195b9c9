"""DBOS: workflows in PostgreSQL, submitted to a queue by its client.

A limit of concurrency would start eight workflows with each poll of the queue. So the queue has
none: the worker's eight threads are the limit. It is polled ten times a second, not once.
"""

import threading
from functools import partial

import sqlalchemy
from dbos import DBOS, DBOSClient

from benchmarks.peers.submitter import DATABASE_URL, THREADS, by_threads, main, wait_until_done

_NAME = "benchmark"
_POLL_SECONDS = 0.1
_LIVE = "SELECT 1 FROM dbos.workflow_status WHERE status <> 'SUCCESS' LIMIT 1"
_ENGINE = sqlalchemy.create_engine(
    DATABASE_URL.replace("postgresql:", "postgresql+psycopg:", 1), pool_size=THREADS
)
_CLIENT = DBOSClient(system_database_engine=_ENGINE, application_name=_NAME, lazy=True)
_NOOP = {"workflow_name": "noop", "queue_name": _NAME}


@DBOS.workflow(name="noop")
def noop() -> None:
    """Do nothing."""


@DBOS.workflow(name="sequence")
def sequence(count: int) -> None:
    """Run so many no-ops, one after the other."""
    for _ in range(count):
        noop()


@DBOS.workflow(name="spread")
def spread(count: int) -> None:
    """Run so many no-ops at once, in the queue."""
    for handle in [DBOS.enqueue_workflow(_NAME, noop) for _ in range(count)]:
        handle.get_result()


def _launch() -> None:
    DBOS(config={
        "name": _NAME, "system_database_url": DATABASE_URL, "max_executor_threads": THREADS,
        "log_level": "WARNING",
    })  # fmt: skip
    DBOS.launch()


def _prepare() -> None:
    _launch()
    DBOS.register_queue(_NAME, polling_interval_sec=_POLL_SECONDS)
    DBOS.destroy()


def _worker() -> None:
    _launch()
    threading.Event().wait()


def _in_bulk(count: int) -> None:
    with _ENGINE.begin() as connection:
        for _ in range(count):
            _CLIENT.enqueue_in_transaction(connection, _NOOP)
    wait_until_done(_LIVE)


def _one_by_one(count: int) -> None:
    by_threads(lambda: _CLIENT.enqueue(_NOOP), count)
    wait_until_done(_LIVE)


def _flow(name: str, count: int) -> None:
    _CLIENT.enqueue({"workflow_name": name, "queue_name": _NAME}, count).get_result()


if __name__ == "__main__":
    main(
        prepare=_prepare,
        worker=_worker,
        in_bulk=_in_bulk,
        one_by_one=_one_by_one,
        flows={
            "chain": partial(_flow, "sequence"),
            "fan-out": partial(_flow, "spread"),
            "fan-in": partial(_flow, "spread"),
        },
    )
