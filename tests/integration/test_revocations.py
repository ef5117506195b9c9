"""Many tasks that are revoked at once: one thread and one connection cancel their executions."""

import threading
from uuid import uuid4

import pytest
from celery import Celery
from celery.worker.control import Panel

from celeriac.services.executions.calls import RevokeCalls
from celeriac.wiring.core import CoreServices
from celeriac.worker.revoke import Revocations, follow_revocations, stamps_of
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


def test_every_command_that_revokes_cancels(
    container: CoreServices, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids: list[object] = []
    stamps: list[object] = []
    done: list[str] = []
    monkeypatch.setattr(Revocations, "add", lambda _, found: ids.extend(found))
    monkeypatch.setattr(Revocations, "add_stamps", lambda _, found: stamps.append(found))
    commands = ("revoke", "terminate", "revoke_by_stamped_headers")
    for name in commands:
        monkeypatch.setitem(Panel.data, name, lambda *_, name=name, **__: done.append(name))
    follow_revocations(Celery(set_as_current=False), container.settings)

    Panel.data["revoke"](None, "a", terminate=True)
    Panel.data["revoke"](None, ["b", "c"])
    Panel.data["terminate"](None, "KILL", ["d"])
    Panel.data["revoke_by_stamped_headers"](None, {"team": "x"}, terminate=True)

    assert ids == ["a", "b", "c", "d"]
    assert stamps == [{"team": ["x"]}]
    assert done == ["revoke", *commands], "Celery does its part, too"


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"a": "x", "b": ["y", "z", 1]}, {"a": ["x"], "b": ["y", "z"]}),
        (["a=x", "a=y", "b=z=1"], {"a": ["x", "y"], "b": ["z=1"]}),
        ({}, {}),
        (None, {}),
        ([7], {}),
    ],
)
def test_stamps_are_read_as_celery_takes_them(headers: object, expected: object) -> None:
    assert stamps_of(headers) == expected
