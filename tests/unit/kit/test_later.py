"""Calls that are made later."""

import threading
from collections.abc import Callable

import pytest

from celeriac.kit.later import Later
from tests.support.waiting import wait_until


def test_calls_are_made_when_they_are_due_by_one_thread() -> None:
    later, made, threads = Later("test later"), list[str](), set[int]()

    def note(name: str) -> Callable[[], None]:
        def call() -> None:
            made.append(name)
            threads.add(threading.get_ident())

        return call

    later.call(0.3, note("second"))
    later.call(0.1, note("first"))
    later.call(0.6, note("third"))
    wait_until(lambda: len(made) == 3, "all calls are made")
    assert made == ["first", "second", "third"]
    assert len(threads) == 1


def test_a_call_that_raises_does_not_keep_others_from_being_made() -> None:
    later, made = Later("test later"), threading.Event()
    later.call(0, lambda: 1 / 0)
    later.call(0.1, made.set)
    assert made.wait(20)


def test_a_thread_that_can_not_be_started_is_started_for_the_next_call(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    later, made = Later("test later"), threading.Event()

    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(RuntimeError, match="can't start"):
            later.call(0, made.set)
    later.call(0, made.set)
    assert made.wait(20)
