"""Procrastinate: jobs in PostgreSQL."""

from functools import cache

from procrastinate import App, PsycopgConnector

from benchmarks.peers.submitter import DATABASE_URL, THREADS, by_threads, main, wait_until_done

app = App(connector=PsycopgConnector(conninfo=DATABASE_URL))
_LIVE = "SELECT 1 FROM procrastinate_jobs WHERE status <> 'succeeded' LIMIT 1"


@app.task(name="noop")
async def noop() -> None:
    """Do nothing."""


def _prepare() -> None:
    with app.open():
        app.schema_manager.apply_schema()


@cache
def _open() -> None:
    app.open()


def _in_bulk(count: int) -> None:
    _open()
    noop.batch_defer(*({} for _ in range(count)))
    wait_until_done(_LIVE)


def _one_by_one(count: int) -> None:
    _open()
    by_threads(noop.defer, count)
    wait_until_done(_LIVE)


if __name__ == "__main__":
    main(
        prepare=_prepare,
        worker=lambda: app.run_worker(concurrency=THREADS),
        in_bulk=_in_bulk,
        one_by_one=_one_by_one,
    )
