"""The demo's files and its proof."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from celeriac.cli.core.output import CommandError
from celeriac.cli.demo.command import read_files
from celeriac.cli.demo.scenario import Proof
from celeriac.domain.executions.events import EventType
from celeriac.wire import Event

C, Q, S, L, R, D = (
    EventType.CREATED,
    EventType.QUEUED,
    EventType.STARTED,
    EventType.WORKER_LOST,
    EventType.RETRY_SCHEDULED,
    EventType.COMPLETED,
)


def _log(*kinds: EventType) -> list[Event]:
    at = datetime(2026, 11, 22, tzinfo=UTC)
    return [
        Event(seq=seq, type=kind, at=at, attempt=1, data={})
        for seq, kind in enumerate(kinds, start=1)
    ]


def test_the_files_that_come_with_celeriac_are_whole() -> None:
    document, texts = read_files()
    assert {task["agent"] for task in document["tasks"]} <= {
        agent["name"] for agent in document["agents"]
    }
    assert len(texts) >= 6


def test_missing_files_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="can't be read"):
        read_files(tmp_path)


def test_files_without_texts_are_an_error(tmp_path: Path) -> None:
    (tmp_path / "demo.toml").write_text("[[agents]]\nname = 'a'\n[[tasks]]\nname = 't'\n")
    with pytest.raises(CommandError, match="no text"):
        read_files(tmp_path)


def test_a_lost_worker_and_one_completion_hold() -> None:
    proof = Proof.of(_log(C, Q, S, L, R, Q, S, D))
    assert proof == Proof(started=2, lost=1, completed=1, gapless=True)
    assert proof.holds


@pytest.mark.parametrize("kinds", [(C, Q, S), (C, Q, S, D, D)], ids=["none", "twice"])
def test_no_completion_or_two_do_not_hold(kinds: tuple[EventType, ...]) -> None:
    assert not Proof.of(_log(*kinds)).holds


def test_a_gap_in_the_log_does_not_hold() -> None:
    events = _log(C, Q, S, D)
    assert not Proof.of([*events[:2], *events[3:]]).holds
