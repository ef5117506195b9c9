"""What a worker says of tasks that it doesn't know."""

import time
from types import SimpleNamespace
from typing import Any

import pytest

from celeriac.worker.unknown import NAMED_SECONDS, UnknownTasks


class _Message:
    """One that goes back to its queue."""

    requeued = 0

    def reject_log_error(self, *_: Any, requeue: bool) -> None:
        self.requeued += requeue


def test_a_name_is_told_for_as_long_as_its_messages_come(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    unknown = UnknownTasks(SimpleNamespace(connection_errors=()))
    message = _Message()
    unknown.leave(message, "shop.add", "one")
    unknown.leave(message, "shop.remove", "two")
    now[0] += NAMED_SECONDS - 1
    assert unknown.names == {"shop.add": 1000.0, "shop.remove": 1000.0}
    unknown.leave(message, "shop.add", "three")
    now[0] += 2
    assert list(unknown.names) == ["shop.add"], "the other one has come no more"
    now[0] += NAMED_SECONDS
    assert not unknown.names
    assert message.requeued == 3
