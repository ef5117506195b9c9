"""The demo's plan and its proof."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from celeriac.cli.core.output import CommandError
from celeriac.cli.demo.plan import read_plan
from celeriac.cli.demo.work import Proof, prove
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


def test_the_plan_that_comes_with_celeriac_is_whole() -> None:
    plan = read_plan()
    assert {task["agent"] for task in plan.tasks} <= {agent["name"] for agent in plan.agents}
    assert len(plan.texts) >= 6


def test_a_missing_plan_is_told(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="can't be read"):
        read_plan(tmp_path)


def test_a_lost_worker_and_one_completion_hold() -> None:
    proof = prove(_log(C, Q, S, L, R, Q, S, D))
    assert proof == Proof(started=2, lost=1, completed=1, gapless=True)
    assert proof.holds


@pytest.mark.parametrize("kinds", [(C, Q, S), (C, Q, S, D, D)], ids=["none", "twice"])
def test_no_completion_or_two_do_not_hold(kinds: tuple[EventType, ...]) -> None:
    assert not prove(_log(*kinds)).holds


def test_a_gap_in_the_log_does_not_hold() -> None:
    events = _log(C, Q, S, D)
    assert not prove([*events[:2], *events[3:]]).holds
