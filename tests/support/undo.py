"""Workflows with undo tasks, for tests."""

from typing import Any

from celeriac.domain.executions.model import Claim
from celeriac.kit.json_types import JsonObject
from tests.support.workflows import FAILS, Flows, Work


def failing(*tasks: str) -> Work:
    """Return work in which these tasks fail; the others return their names."""
    return lambda name, _given: FAILS if name in tasks else name


def names(flows: Flows) -> list[str]:
    return [name for name, _ in flows.done]


def undone(flows: Flows) -> list[str]:
    """Return the undo tasks that were run, in their order."""
    return [name for name in names(flows) if name.startswith("undo")]


def chain(*steps: str, **undo: Any) -> dict[str, dict[str, Any]]:
    """Return steps that need each the one before, with undo tasks."""
    return {
        step: {"task": step, "needs": list(steps[max(0, place - 1) : place]),
               "undo": {"task": f"undo-{step}", **undo}}
        for place, step in enumerate(steps)
    }  # fmt: skip


def end_by_name(flows: Flows, claims: list[Claim], name: str, work: Work) -> None:
    """End the claim of a task with this name."""
    claim = next(each for each in claims if flows.names[each.task_id] == name)
    claims.remove(claim)
    flows.end(claim, work)


def all_claims(flows: Flows) -> list[Claim]:
    found = []
    while (claim := flows.take()) is not None:
        found.append(claim)
    return found


MAP: dict[str, dict[str, Any]] = {
    "each": {
        "task": "each", "map": "input.list", "with": {"x": "${{ item }}"},
        "undo": "undo-each", "parallel": 2, "max_failures": 9,
    },
    "end": {"task": "end", "needs": ["each"]},
}  # fmt: skip


def of_map(*bad: int) -> Work:
    """Return work of MAP in which these items fail, and the end."""

    def work(name: str, given: JsonObject) -> object:
        if name == "each":
            return FAILS if given["x"] in bad else given["x"] * 10
        return FAILS if name == "end" else name

    return work
