"""`celeriac why`: what an execution, or a run of a workflow, waits for."""

from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple
from uuid import UUID

from celeriac.cli.core.context import CommandContext, open_client
from celeriac.cli.core.ids import ExecutionOrRunId, short_id
from celeriac.cli.core.output import duration, moment
from celeriac.cli.work import execution_or_run
from celeriac.cli.workflows.tree import open_questions, tree_text
from celeriac.domain.executions.states import LIVE
from celeriac.domain.workflows.states import StepStatus
from celeriac.kit.text import printable

if TYPE_CHECKING:
    from celeriac.wire import Run, WaitingReason, WaitingReasons

_LOOKED_AT = 500
"""In how many items of a step one is looked for that has not ended: one request."""


class _Waiting(NamedTuple):
    step: str
    execution_id: UUID
    why: "WaitingReasons"


@open_client
def why(context: CommandContext, work: ExecutionOrRunId) -> None:
    """Say why an execution has not ended yet: what it waits for, in order.

    Of a run of a workflow: its steps, its questions, and what the first
    execution of each step that has begun waits for.

    Examples:
      celeriac why last
      celeriac why 0b8f6b1d2c11 --json
    """
    from celeriac.wire import Run

    found = execution_or_run(context.client, work, context.client.executions.why)
    if isinstance(found, Run):
        _why_run(context, found)
        return
    context.output.write(found, "\n".join(lines_of(found)))


def _why_run(context: CommandContext, run: "Run") -> None:
    """Write a run with what it waits for; with --json the run, and the reasons by their steps."""
    waiting = list(_of_steps(context, run))
    if context.output.as_json:
        steps = [
            {"step": step, "execution_id": each, **why.model_dump(by_alias=True)}
            for step, each, why in waiting
        ]
        context.output.json({"run": run.model_dump(by_alias=True), "steps": steps})
        return
    lines = [tree_text(run, open_questions(context, run))]
    for step, each, why in waiting:
        lines.append(f"{printable(step)}, execution {each}:")
        lines += [f"   {line}" for line in lines_of(why)]
    context.output.raw("\n".join(lines))


def _of_steps(context: CommandContext, run: "Run") -> Iterator[_Waiting]:
    """Yield the steps that have begun with what their first execution waits for."""
    for step in run.steps:
        if step.status is not StepStatus.RUNNING:
            continue
        listed = context.client.workflow_runs.items(run.id, step.step)
        for item in islice(listed, _LOOKED_AT):
            if item.execution_id is not None and item.status in LIVE:
                found = context.client.executions.why(item.execution_id)
                yield _Waiting(step.step, item.execution_id, found)
                break


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
