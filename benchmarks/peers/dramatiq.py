"""Dramatiq with results in Valkey; its worker is started by its own command."""

import dramatiq
from dramatiq.brokers.redis import RedisBroker
from dramatiq.results import Results
from dramatiq.results.backends import RedisBackend

from benchmarks.peers.submitter import BROKER_URL, THREADS, by_threads, main

broker = RedisBroker(url=BROKER_URL)
broker.add_middleware(Results(backend=RedisBackend(url=BROKER_URL)))
dramatiq.set_broker(broker)

_WITHIN_MS = 120_000


@dramatiq.actor(store_results=True)
def noop() -> None:
    """Do nothing."""


def _worker() -> None:
    from dramatiq import cli

    arguments = ["benchmarks.peers.dramatiq", "--processes", "1", "--threads", str(THREADS)]
    cli.main(cli.make_argument_parser().parse_args(arguments))


def _in_bulk(count: int) -> None:
    sent = dramatiq.group([noop.message() for _ in range(count)]).run()
    list(sent.get_results(block=True, timeout=_WITHIN_MS))


def _one_by_one(count: int) -> None:
    for message in by_threads(noop.send, count):
        message.get_result(block=True, timeout=_WITHIN_MS)


if __name__ == "__main__":
    main(worker=_worker, in_bulk=_in_bulk, one_by_one=_one_by_one)
