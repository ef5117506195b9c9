"""Plain Celery tasks as a user of Celery writes them; a worker gets them with `-I`."""

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from celery import Task, shared_task
from celery.exceptions import SoftTimeLimitExceeded

from tests.support.waiting import wait_until

MODULE = __name__


class StumbleError(Exception):
    """What these tasks fail with."""


@shared_task(name="plain.echo")
def echo(value: Any) -> Any:
    return value


@shared_task(name="plain.mark")
def mark() -> None:
    """Do nothing, under a name that nothing else counts."""


@shared_task(bind=True, name="plain.where")
def where(self: Task) -> str:
    """Return the queue that this came through."""
    return str(self.request.delivery_info["routing_key"])


@shared_task(name="plain.fail")
def fail(message: str) -> None:
    raise StumbleError(message)


@shared_task(bind=True, name="plain.stumble", max_retries=1)
def stumble(self: Task, message: str, seconds: float = 0) -> str:
    """Ask for a retry the first time, so many `seconds` later."""
    if self.request.retries == 0:
        raise self.retry(exc=StumbleError(message), countdown=seconds)
    return "stands"


@shared_task(name="plain.hold")
def hold(started: str, gate: str) -> str:
    """Tell that it runs by the file `started`, and end once the file `gate` exists."""
    Path(started).touch()
    wait_until(Path(gate).exists, "the gate is open", within=60)
    return "let go"


@shared_task(name="plain.stick")
def stick(started: str, gate: str) -> None:
    """As `hold`, but write the process of each run to `started`, and ignore the soft time limit."""
    with Path(started).open("a") as file:
        file.write(f"{os.getpid()}\n")
    while not Path(gate).exists():
        with suppress(SoftTimeLimitExceeded):
            wait_until(Path(gate).exists, "the gate is open", within=60)


@shared_task(name="plain.again", acks_on_timeout=False)
def again(started: str, gate: str) -> None:
    """As `stick`, but deliver it again when it exceeds its hard time limit."""
    stick(started, gate)
