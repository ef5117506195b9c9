"""Faults for a worker's consumer; a worker gets them with `-I`, a test asks for one by a file."""

import os
import threading
from pathlib import Path
from typing import Any

from celery import signals

MODULE = __name__
VARIABLE = "TEST_CONSUMER_FAULT"


def _watch_for_faults(sender: Any, **_: Any) -> None:
    place = Path(os.environ[VARIABLE])
    done: list[str] = []

    def look() -> None:
        if not place.exists() or done:
            return
        fault = place.read_text()
        done.append(fault)
        place.with_suffix(".done").touch()
        if fault == "raise":
            raise AssertionError("a fault of the consumer")  # passes through kombu's loop
        if fault == "block":
            threading.Event().wait()
        if fault == "no credit":
            sender.task_consumer.channel.qos.can_consume = lambda: False

    sender.hub.call_repeatedly(0.1, look)


signals.worker_ready.connect(_watch_for_faults, weak=False)
