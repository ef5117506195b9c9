"""Workflows with an approval step, for tests."""

from typing import Any
from uuid import UUID

from celeriac.domain.approvals import (
    Approval,
)
from tests.support.workflows import Flows

SEES = {"answer": "${{ steps.ok.result }}", "status": "${{ steps.ok.status }}"}


ORDER: dict[str, Any] = {
    "draft": {"task": "draft", "with": {"text": "hello"}},
    "ok": {"approve": "Send it?", "show": {"draft": "${{ steps.draft.result.text }}"}},
    "send": {"task": "send", "with": SEES},
    "report": {"task": "report", "with": SEES, "run": "always"},
}


def order(**ok: Any) -> dict[str, Any]:
    return {**ORDER, "ok": ORDER["ok"] | ok}


def started(flows: Flows, steps: dict[str, Any] = ORDER, **fields: Any) -> UUID:
    """Start a run, and let everything run that needs no answer."""
    run_id = flows.start(flows.define("w", steps, **fields))
    flows.drive()
    return run_id


def reported(flows: Flows, run_id: UUID) -> Any:
    """Return what the step `report` was given: what expressions see of the approval."""
    (item,) = flows.ran(run_id).items("report")
    return item.result


def of_question(flows: Flows, run_id: UUID) -> Approval:
    (asked,) = flows.asked(run_id, only_open=False)
    return asked
