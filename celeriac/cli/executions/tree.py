"""`celeriac executions tree`: an execution with those that it has started, and those of these."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from celeriac.cli.core.context import CommandContext
from celeriac.cli.core.ids import ExecutionId
from celeriac.cli.core.output import duration, money, short
from celeriac.cli.executions.notes import note

if TYPE_CHECKING:
    from celeriac.client import Client
    from celeriac.wire import ExecutionSummary

_MOST = 1_000
"""How many executions are shown."""


def tree(context: CommandContext, execution: ExecutionId) -> None:
    """Show an execution and all that it has started, as a tree.

    At most 1,000 executions; of the children of one, the newest. With --json a
    list in the same order, with parent_id and depth.
    """
    root = context.client.executions.get(execution)
    lines: list[dict[str, Any]] = []
    for depth, each in walk(context.client, root):
        lines.append({"depth": depth, "execution": each})
        if len(lines) >= _MOST:
            break
    if context.output.as_json:
        context.output.json(
            [
                {
                    "id": line["execution"].id,
                    "parent_id": line["execution"].parent_id,
                    "depth": line["depth"],
                    "task_name": line["execution"].task_name,
                    "status": line["execution"].status,
                    "cost": line["execution"].cost,
                }
                for line in lines
            ]
        )
        return
    for line in lines:
        context.output.raw(_line(line["depth"], line["execution"]))
    if len(lines) >= _MOST:
        context.output.raw(f"… at most {_MOST:,} are shown")


def walk(client: "Client", root: "ExecutionSummary") -> Iterator[tuple[int, "ExecutionSummary"]]:
    """Yield executions from the root, each before its children, the oldest child first."""
    left = [(0, root)]
    while left:
        depth, each = left.pop()
        yield depth, each
        children = []
        for child in client.executions.list(parent_id=each.id):
            children.append((depth + 1, child))
            if len(children) >= _MOST:
                break
        left += children  # the newest first: the oldest is taken next


def _line(depth: int, each: "ExecutionSummary") -> str:
    facts = [str(each.id), each.task_name, each.status.value]
    if each.duration_seconds is not None:
        facts.append(duration(each.duration_seconds))
    if each.cost:
        facts.append(money(each.cost))
    said = short(note(each))
    return "  " * depth + "  ".join([*facts, *([said] if said else [])])
