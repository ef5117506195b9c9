"""What lists note of an execution: what it waits for and for how long, or how it failed."""

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from celeriac.cli.core.output import duration, moment
from celeriac.cli.failures import failure_text
from celeriac.domain.executions.states import Status

if TYPE_CHECKING:
    from celeriac.wire import ExecutionSummary


def note(execution: "ExecutionSummary") -> str:
    """Return what an execution waits for and how it failed; empty where neither is so."""
    waits = waits_for(execution)
    parts = [f"waits for {waits}" if waits else "", error_text(execution)]
    if execution.waiting_for is not None:
        parts.pop()  # of an earlier attempt
    return "; ".join(part for part in parts if part)


def waits_for(execution: "ExecutionSummary") -> str:
    """Return what an execution waits for: a person, a budget, a provider, a worker, its time."""
    since = execution.waiting_since
    waited = max((datetime.now(UTC) - since).total_seconds(), 0.0) if since else None
    spent = f", for {duration(waited)}" if waited is not None else ""
    if execution.waiting_for is not None:
        until = f", until {moment(execution.waiting_until)}" if execution.waiting_until else ""
        return f"{execution.waiting_for.value.replace('_', ' ')}{until}{spent}"
    if execution.status in {Status.PENDING, Status.QUEUED}:
        return f"a worker{spent}" if spent else f"its time, {moment(execution.available_at)}"
    return ""


def error_text(execution: "ExecutionSummary") -> str:
    """Return the code and the words of an execution's last error; empty where there is none."""
    code = execution.error_code
    if not code:
        return ""
    return f"{code}: {failure_text(code, execution.error_message, execution.error_type)}"
