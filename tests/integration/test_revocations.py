"""Many tasks that are revoked at once: one thread and one connection cancel their executions."""

import threading
from uuid import uuid4

import pytest
from celery import Celery

from celeriac.services.executions.calls import RevokeCalls
from celeriac.wiring.core import CoreServices
from celeriac.worker.revoke import Revocations
from tests.support.waiting import wait_until


def threads() -> int:
    return sum(each.name == "revoke" for each in threading.enumerate())


def test_many_revocations_have_one_thread(
    container: CoreServices, monkeypatch: pytest.MonkeyPatch
) -> None:
    revoked: list[str] = []
    call = RevokeCalls.__call__

    def noted(calls: RevokeCalls, ids: list[str]) -> int:
        revoked.extend(ids)
        return call(calls, ids)

    monkeypatch.setattr(RevokeCalls, "__call__", noted)
    url = "redis://127.0.0.1:1/0"  # never connected: there is nothing to cancel
    app = Celery(set_as_current=False, broker=url, backend=url)
    revocations = Revocations(app, container.settings)
    ids = [str(uuid4()) for _ in range(200)]
    most = 0
    for each in ids:
        revocations.add([each, None, 7])
        most = max(most, threads())
    wait_until(lambda: len(revoked) == len(ids), "all are looked for", within=20)
    wait_until(lambda: threads() == 0, "the thread ends", within=10)
    assert (sorted(revoked), most) == (sorted(ids), 1)
    revocations.add(["one more"])
    wait_until(lambda: "one more" in revoked, "a new thread looks for it", within=10)
