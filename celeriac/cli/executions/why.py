"""`celeriac why`: what an execution waits for."""

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from celeriac.cli.core.context import CommandContext, open_client
from celeriac.cli.core.ids import ExecutionId, short_id
from celeriac.cli.core.output import duration, moment
from celeriac.kit.text import printable

if TYPE_CHECKING:
    from celeriac.wire import WaitingReason, WaitingReasons


@open_client
def why(context: CommandContext, execution: ExecutionId) -> None:
    """Say why an execution has not ended yet: what it waits for, in order.

    Examples:
      celeriac why last
      celeriac why 0b8f6b1d2c11 --json
    """
    found = context.client.executions.why(execution)
    context.output.write(found, "\n".join(lines_of(found)))


def lines_of(found: "WaitingReasons") -> list[str]:
    """Return the reasons as lines, the first one first."""
    if not found.reasons:
        return [found.text]
    return [
        line
        for number, reason in enumerate(found.reasons, 1)
        for line in (f"{number}. {printable(reason.text)}", *_details(reason))
    ]


def _details(reason: "WaitingReason") -> list[str]:
    facts = []
    if reason.since is not None:
        facts.append(f"for {duration((datetime.now(UTC) - reason.since).total_seconds())}")
    if reason.until is not None:
        facts.append(f"until {moment(reason.until)}")
    lines = [f"   {' · '.join(facts)}"] if facts else []
    command = _command(reason)
    return [*lines, f"   {command}"] if command else lines


def _command(reason: "WaitingReason") -> str | None:
    from celeriac.domain.executions.why import SubjectKind

    if reason.subject is None:
        return None
    match reason.subject.kind:
        case SubjectKind.APPROVAL:
            return f"celeriac approvals answer {short_id(reason.subject.id)}"
        case SubjectKind.PAUSE:
            return f"celeriac resume --id {short_id(reason.subject.id)}"
        case SubjectKind.LIMIT:
            return f"celeriac limits show {reason.subject.id}"
        case SubjectKind.WORKFLOW_RUN:
            return f"celeriac workflow-runs show {short_id(reason.subject.id)}"
    return None
