"""A run of a workflow as a tree of its steps."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from celeriac.cli.core.ids import short_id
from celeriac.cli.core.output import duration
from celeriac.domain.workflows.states import StepStatus
from celeriac.kit.text import printable
from celeriac.kit.words import counted

if TYPE_CHECKING:
    from rich.tree import Tree

    from celeriac.cli.core.context import CommandContext
    from celeriac.wire import Approval, Run, RunLimit, RunStep

_SIGNS = {
    StepStatus.BLOCKED: ("·", "dim"),
    StepStatus.READY: ("·", "dim"),
    StepStatus.RUNNING: ("▸", "cyan"),
    StepStatus.COMPLETED: ("✓", "green"),
    StepStatus.FAILED: ("✗", "red"),
    StepStatus.SKIPPED: ("-", "dim"),
    StepStatus.DENIED: ("-", "yellow"),
    StepStatus.CANCELLED: ("-", "yellow"),
}


def step_text(step: "RunStep") -> str:
    """Return a step as a line: its sign, name, numbers and error."""
    parts = [
        f"{_SIGNS[step.status][0]} {step.step}",
        "waits for an answer" if _asks(step) else step.status.value,
    ]
    if step.items > 1:
        ended = step.items - step.remaining
        parts.append(f"{ended} of {step.items}")
        parts += [f"{count} {name}" for name, count in _bad(step) if count]
    if step.round > 1:
        parts.append(f"round {step.round}")
    if step.started_at is not None and step.completed_at is not None:
        parts.append(duration((step.completed_at - step.started_at).total_seconds()))
    if step.error_message:
        parts.append(step.error_message)
    return printable(" · ".join(parts)).replace("\n", " ")


def _asks(step: "RunStep") -> bool:
    from celeriac.domain.workflows.model import StepKind

    return step.kind is StepKind.APPROVE and step.status is StepStatus.RUNNING


Questions = Mapping[str, "Approval"]
"""The open questions of a run by their steps."""


def open_questions(context: "CommandContext", run: "Run") -> Questions:
    """Return the open questions of a run; without a request if none of its steps asks."""
    if not any(map(_asks, run.steps)):
        return {}
    found = context.client.approvals.list(status="open", workflow_run_id=run.id)
    return {each.step: each for each in found if each.step is not None}


def question_texts(asked: "Approval") -> list[str]:
    """Return a question as lines: what is asked, and the command to answer it."""
    answer = f"celeriac approvals answer {short_id(asked.id)}"
    lines = [asked.title, f"answer: {answer} --approve, or --deny"]
    return [printable(line).replace("\n", " ") for line in lines]


def _bad(step: "RunStep") -> list[tuple[str, int]]:
    return [("failed", step.failed), ("cancelled", step.cancelled)]


def head_text(run: "Run") -> str:
    """Return the first line of a run."""
    parts = [run.workflow_name, run.status.value, str(run.id)]
    if run.compensation is not None:
        parts.append(run.compensation.value)
    if run.error_message:
        parts.append(run.error_message)
    return printable(" · ".join(parts)).replace("\n", " ")


def _waits_for(run: "Run") -> "list[RunLimit]":
    from celeriac.domain.workflows.limits import SlotState

    return [limit for limit in run.limits if limit.state is SlotState.WAITING]


def limit_text(limit: "RunLimit") -> str:
    """Return as a line what a run waits for: a slot of a limit, and who has them."""
    named = limit.key if limit.name is None else f"the limit {limit.name!r} ({limit.key})"
    said = f"waits for {named}: {limit.used} of {counted(limit.max, 'slot')} used"
    if limit.holders:
        said += f" by {', '.join(map(str, limit.holders))}"
        said += " and others" if limit.used > len(limit.holders) else ""
    return printable(said).replace("\n", " ")


def tree_text(run: "Run", questions: Questions) -> str:
    """Return a run as plain lines."""
    lines = [f"  {limit_text(limit)}" for limit in _waits_for(run)]
    for step in run.steps:
        lines.append(f"  {step_text(step)}")
        if step.step in questions:
            lines += [f"      {line}" for line in question_texts(questions[step.step])]
    return "\n".join([head_text(run), *lines])


def tree(run: "Run", questions: Questions) -> "Tree":
    """Return a run for the live view."""
    from rich.text import Text
    from rich.tree import Tree

    made = Tree(Text(head_text(run), style="bold"))
    for limit in _waits_for(run):
        made.add(Text(limit_text(limit), style="yellow"))
    for step in run.steps:
        branch = made.add(Text(step_text(step), style=_SIGNS[step.status][1]))
        if step.step in questions:
            for line in question_texts(questions[step.step]):
                branch.add(Text(line, style="yellow"))
    return made
