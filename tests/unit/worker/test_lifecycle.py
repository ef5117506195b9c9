"""What a worker does when it is told to end."""

from collections.abc import Iterator
from typing import cast

import pytest
from celery import Celery, signals
from celery.utils.dispatch import Signal

from celeriac.settings import Settings
from celeriac.worker.lifecycle import Lifecycle
from celeriac.worker.watch import ConsumerWatch


class Interrupted:
    """A watch whose stopping is interrupted by a second signal, as by `timeout` and its group."""

    stops = 0

    def stop(self) -> None:
        self.stops += 1
        assert self.stops == 1, "the second signal waits for what the first one holds"
        signals.worker_shutting_down.send(sender=None)


@pytest.fixture
def connected() -> Iterator[tuple[Lifecycle, Interrupted]]:
    watch = Interrupted()
    used = [each for each in vars(signals).values() if isinstance(each, Signal)]
    kept = [list(each.receivers) for each in used]
    lifecycle = Lifecycle(Celery(), Settings(), _watch=cast(ConsumerWatch, watch))
    lifecycle.connect()
    yield lifecycle, watch
    for each, receivers in zip(used, kept, strict=True):
        each.receivers[:] = receivers
        each.sender_receivers_cache.clear()


@pytest.mark.requirement("B8")
def test_a_second_signal_within_the_first_begins_nothing_anew(
    connected: tuple[Lifecycle, Interrupted], caplog: pytest.LogCaptureFixture
) -> None:
    lifecycle, watch = connected
    signals.worker_shutting_down.send(sender=None)
    assert lifecycle.shutdown.started
    assert watch.stops == 1
    assert not [record for record in caplog.records if record.exc_info]
