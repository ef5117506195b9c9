"""A run as lines and as a tree: its steps, and the questions of those that wait for an answer."""

from datetime import UTC, datetime
from io import StringIO
from typing import Any
from uuid import UUID

from rich.console import Console

from celeriac.cli.workflows.following import event_line
from celeriac.cli.workflows.tree import tree, tree_text
from celeriac.domain.executions.events import EventType
from celeriac.domain.workflows.model import StepKind
from celeriac.domain.workflows.states import RunStatus, StepStatus
from celeriac.wire import Approval, Event, Run, RunStep

RUN = UUID("0199f3a2-0000-7000-8000-000000000001")
ASKED = UUID("0199f3a2-0000-7000-8000-00000000abcd")
ANSWER = "celeriac approvals answer 00000000abcd"


def step(name: str, kind: StepKind, status: StepStatus) -> RunStep:
    return RunStep(
        step=name, undoes=None, kind=kind, status=status, items=1, remaining=0, completed=0,
        failed=0, cancelled=0, round=1, started_at=None, completed_at=None, error_code=None,
        error_message=None,
    )  # fmt: skip


def run(status: StepStatus) -> Run:
    steps = [
        step("check", StepKind.TASK, StepStatus.COMPLETED), step("ok", StepKind.APPROVE, status)
    ]  # fmt: skip
    fields: dict[str, Any] = {
        "id": RUN, "workflow_name": "publish", "status": RunStatus.RUNNING, "compensation": None,
        "error_message": None, "limits": [], "steps": steps,
    }  # fmt: skip
    return Run.model_construct(**fields)


ASKING: dict[str, Any] = {"id": ASKED, "step": "ok", "title": "Publish\nthis\x1b[2J?"}
QUESTIONS = {"ok": Approval.model_construct(**ASKING)}


def test_a_step_that_asks_shows_its_question_and_the_command_to_answer_it() -> None:
    assert tree_text(run(StepStatus.RUNNING), QUESTIONS).splitlines() == [
        f"publish · running · {RUN}",
        "  ✓ check · completed",
        "  ▸ ok · waits for an answer",
        "      Publish this\ufffd[2J?",
        f"      answer: {ANSWER} --approve, or --deny",
    ]


def test_the_live_tree_has_the_same_lines_below_the_step() -> None:
    console = Console(width=100, record=True, file=StringIO())
    console.print(tree(run(StepStatus.RUNNING), QUESTIONS))
    drawn = console.export_text()
    assert drawn.index("waits for an answer") < drawn.index("Publish this") < drawn.index(ANSWER)


def test_an_answered_step_shows_its_status_alone() -> None:
    assert tree_text(run(StepStatus.DENIED), {}).splitlines()[1:] == [
        "  ✓ check · completed", "  - ok · denied",
    ]  # fmt: skip


def test_the_events_of_a_question_name_the_command_and_the_answer() -> None:
    at = datetime(2026, 11, 27, 12, 0, tzinfo=UTC)
    data: dict[str, Any] = {
        "approval_id": str(ASKED),
        "step": "ok",
        "kind": "step",
        "title": "Publish this?",
    }
    asked = Event(seq=3, type=EventType.APPROVAL_ASKED, at=at, attempt=0, data=data)
    assert event_line(asked).endswith(f"step ok · {ANSWER}: Publish this?")
    data = {"approval_id": str(ASKED), "step": "ok", "approved": False, "by": "ada"}
    answered = Event(seq=4, type=EventType.APPROVAL_ANSWERED, at=at, attempt=0, data=data)
    assert event_line(answered).endswith("step ok · denied by ada")
