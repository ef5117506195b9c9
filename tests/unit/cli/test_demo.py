"""The demo's files, its proof, and what it shows."""

from datetime import UTC, datetime
from io import StringIO
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from rich.console import Console

from celeriac.cli.core.output import CommandError
from celeriac.cli.demo.proof import fault_in
from celeriac.cli.demo.scenario import read_files
from celeriac.cli.demo.showing import Progress, show_run
from celeriac.domain.executions.events import EventType
from celeriac.domain.executions.states import Status
from celeriac.domain.workflows.states import RunStatus, StepStatus
from celeriac.wire import Event, ExecutionSummary, Run, RunStep

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


def test_a_lost_worker_and_one_completion_are_no_fault() -> None:
    assert fault_in(_log(C, Q, S, L, R, Q, S, D)) is None


@pytest.mark.parametrize("kinds", [(C, Q, S), (C, Q, S, D, D)], ids=["none", "twice"])
def test_no_completion_or_two_are_a_fault(kinds: tuple[EventType, ...]) -> None:
    assert fault_in(_log(*kinds)) == f"has {kinds.count(D)} `completed` events"


def test_a_gap_in_the_log_is_a_fault() -> None:
    events = _log(C, Q, S, D)
    assert fault_in([*events[:2], *events[3:]]) == "has 1 `completed` events and gaps in its log"


def _state(execution_id: UUID, status: Status, attempt: int) -> ExecutionSummary:
    values: dict[str, Any] = {"id": execution_id, "status": status, "attempt": attempt}
    return ExecutionSummary.model_construct(**values)


@pytest.mark.parametrize("terminal", [False, True])
def test_each_change_is_a_line_and_all_live_output_is_shown(terminal: bool) -> None:
    execution_id, written = uuid4(), StringIO()
    console = Console(file=written, force_terminal=terminal, width=100)
    progress = Progress(console, {execution_id: ("demo-summary", "late-parcel")})
    for status in (Status.QUEUED, Status.RUNNING, Status.RUNNING, Status.COMPLETED):
        progress.update([_state(execution_id, status, int(status is not Status.QUEUED))])
    for words in ("A parcel ", "is \x1b[2Jlate. " * 8, "It ", "comes."):
        progress.stream(words)
    progress.end_stream()
    lines = written.getvalue().splitlines()
    states = [line.split()[2:] for line in lines if line.split()[0] == "demo-summary"]
    assert states == [[status, "attempt", n] for status, n in
                      (("queued", "0"), ("running", "1"), ("completed", "1"))]  # fmt: skip
    live = " ".join(line.partition(": ")[2] for line in lines if "live out" in line)
    assert live == "A parcel " + "is \N{REPLACEMENT CHARACTER}[2Jlate. " * 8 + "It comes."


def _item(text: str, attempts: int) -> dict[str, Any]:
    return {
        "text": text,
        "status": Status.COMPLETED,
        "attempts": attempts,
        "workers_lost": attempts - 1,
    }


def _step(name: str, *, items: int) -> RunStep:
    values: dict[str, Any] = {
        "step": name, "status": StepStatus.COMPLETED, "items": items, "remaining": 0, "failed": 0,
        "cancelled": 0, "round": 1, "undoes": None, "kind": "task", "started_at": None,
        "completed_at": None, "error_message": None,
    }  # fmt: skip
    return RunStep.model_construct(**values)


def test_a_run_is_shown_as_a_tree_with_its_items_in_plain_words() -> None:
    written = StringIO()
    steps = [_step("sort", items=2), _step("note", items=1)]
    values: dict[str, Any] = {
        "id": uuid4(), "workflow_name": "demo-digest", "status": RunStatus.COMPLETED,
        "error_message": None, "result": "Two things.", "steps": steps, "compensation": None,
    }  # fmt: skip
    items = {
        "sort": [_item("late-parcel", 2), _item("billing-mail", 1)],
        "note": [_item("all texts", 1)],
    }
    show_run(Console(file=written, width=60), Run.model_construct(**values), items)
    lines = [" ".join(line.split()) for line in written.getvalue().splitlines() if line]
    assert lines[0] == f"demo-digest · completed · {values['id']}"
    assert lines[1:6] == [
        "✓ sort · completed · 2 of 2",
        "late-parcel completed, 2 attempts, lost its worker on the way",
        "billing-mail completed, 1 attempt",
        "✓ note · completed",
        "all texts completed, 1 attempt",
    ]
    assert lines[6:] == [
        "Two things.",
        (
            "• The step sort had 2 items, each completed exactly once; "
            "1 of them lost their worker and were run again."
        ),
        "• The step note began once, after all of them: 1 execution.",
    ]
