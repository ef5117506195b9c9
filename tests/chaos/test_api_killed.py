"""The API is killed when an execution is stored and its message is not sent yet."""

import threading
from contextlib import suppress

import httpx
import pytest

from celeriac.domain.executions.states import Status
from tests.support.fleet import Fleet
from tests.support.servers import ValkeyServer
from tests.support.waiting import wait_until

pytestmark = pytest.mark.requirement("B13")


def test_the_keeper_sends_what_it_could_not(fleet: Fleet, valkey: ValkeyServer) -> None:
    task = fleet.task("note")
    token = fleet.key()
    api = fleet.api(CELERIAC_CELERY_PUBLISH_TIMEOUT="60")
    address = fleet.address_of(api)

    def execute() -> None:
        with suppress(httpx.TransportError):  # it never answers
            httpx.post(
                f"{address}/api/v1/tasks/{task}/execute",
                headers={"Authorization": f"Bearer {token}"},
                json={"variables": {"diary": str(fleet.diary)}},
                timeout=60,
            )

    valkey.freeze()
    client = threading.Thread(target=execute)
    client.start()
    wait_until(lambda: fleet.ids(Status.QUEUED), "it is stored, and being sent")
    api.kill()
    client.join(20)
    assert not client.is_alive()
    execution = fleet.ids(Status.QUEUED)[0]
    assert not fleet.diary_lines(), "it was sent all the same, so this shows nothing"
    valkey.kill()  # and with it what the API had already written into the socket
    valkey.start()
    fleet.beat()
    fleet.worker()
    done = fleet.wait_terminal([execution])[0]
    assert (done.status, done.attempt) == (Status.COMPLETED, 1)
    assert fleet.event_types(execution) == [
        "created", "queued", "unqueued", "queued", "started", "completed",
    ]  # fmt: skip
