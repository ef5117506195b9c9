"""Celery's signals of plain tasks, whose errors are of users' classes."""

from types import SimpleNamespace
from typing import NoReturn

import pytest
from celery import signals

from celeriac.domain.plain_tasks import PlainEnd
from celeriac.services.operations.plain_tasks import PlainTaskCounts
from celeriac.worker.plain import connect_counts

SIGNALS = ("received", "prerun", "postrun", "success", "failure", "revoked")


class Counts(PlainTaskCounts):
    """Notes the ends."""

    def __init__(self) -> None:
        super().__init__()
        self.ends: list[tuple[PlainEnd, str | None]] = []

    def ended(
        self,
        name: str,
        end: PlainEnd,
        task_id: str,
        queue: str | None = None,
        error: str | None = None,
    ) -> None:
        super().ended(name, end, task_id, queue, error)
        self.ends.append((end, error))


class Task:
    """A task of Celery's, as far as signals show one."""

    name = "shop.mail"
    request = SimpleNamespace(delivery_info={"routing_key": "celery"}, id="1")


class SilentError(Exception):
    """One without a text."""

    def __str__(self) -> NoReturn:
        raise SystemExit(3)


@pytest.fixture
def counts(monkeypatch: pytest.MonkeyPatch) -> Counts:
    for name in SIGNALS:
        monkeypatch.setattr(getattr(signals, f"task_{name}"), "receivers", [])
        monkeypatch.setattr(getattr(signals, f"task_{name}"), "sender_receivers_cache", {})
    found = Counts()
    connect_counts(lambda: found)
    return found


def test_a_failed_task_counts_whatever_its_error_does(counts: Counts) -> None:
    task = Task()
    for number, error in enumerate((SilentError(), ValueError("x" * 100_000), ValueError("no"))):
        signals.task_failure.send(sender=task, task_id=str(number), exception=error)
    ends, texts = zip(*counts.ends, strict=True)
    assert set(ends) == {PlainEnd.FAILED}
    assert len(texts[1]) < 10_000
    assert (texts[0], texts[2]) == ("SilentError: ", "ValueError: no")
