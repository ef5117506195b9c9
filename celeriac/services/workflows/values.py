"""What expressions of a run see: its input, and what its settled steps have returned."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from celeriac.db.engine import Connection
from celeriac.db.workflows import items as item_rows
from celeriac.domain.expressions import compiled
from celeriac.domain.expressions.values import ResultsReference
from celeriac.domain.workflows.model import Step
from celeriac.domain.workflows.records import StepItem, StepRun, WorkflowRun
from celeriac.domain.workflows.states import RunStatus, StepStatus
from celeriac.kit.json_types import JsonValue

INLINE_BYTES = 256 * 1024
"""Results of a map up to this size, as JSON, are handed on; larger ones by reference."""

_PAGE = 1_000
_MOST_ERRORS = 1_000
"""Failed items of a map that `errors` lists."""


@dataclass
class RunValues:
    """The values of the settled steps of one run, each read once.

    They don't change once a step has settled. Not safe to share between threads.
    """

    run: WorkflowRun
    _known: dict[str, JsonValue] = field(default_factory=dict)

    def scope(
        self,
        connection: Connection,
        specs: Mapping[str, Step],
        steps: Iterable[StepRun],
        wanted: Iterable[str],
        *,
        last: bool = False,
        **more: JsonValue,
    ) -> dict[str, Any]:
        """Return the roots of expressions, with the steps in `wanted`.

        `last`: for what is evaluated after all ordinary steps have settled.
        """
        by_name = {each.step: each for each in steps}
        values = {}
        for name in wanted:
            step = by_name[name]
            if name not in self._known or not step.status.terminal:
                self._known[name] = self._read(connection, step, specs[name])
            values[name] = self._known[name]
        return {"input": self.run.input, "steps": values, "run": self._run(last=last), **more}

    def _run(self, *, last: bool) -> JsonValue:
        run = self.run
        error = None
        status = RunStatus.COMPLETED if last else RunStatus.RUNNING
        if run.error_code is not None:
            status = RunStatus.FAILED
            error = {"code": run.error_code, "message": run.error_message, "step": run.error_step}
        elif run.cancel_requested_at is not None:
            error = {"code": "cancelled", "message": "The run was cancelled.", "step": None}
        if run.cancel_requested_at is not None:
            status = RunStatus.CANCELLED
        return {
            "id": str(run.id),
            "workflow": run.workflow_name,
            "version": run.version,
            "owner": str(run.owner_id),
            "workspace": str(run.workspace_id),
            "created_at": run.created_at.isoformat(),
            "status": status.value,
            "error": error,
            # no schedule starts workflows yet
            "schedule": None,
        }

    def _read(self, connection: Connection, step: StepRun, spec: Step) -> JsonValue:
        value: dict[str, JsonValue] = {
            "status": step.status.value,
            "result": None,
            "error": _error(step.error_code, step.error_message),
        }
        if spec.map is not None:
            value |= {"results": None, "errors": None}
        if step.round == 0:
            return value
        if spec.map is None:
            if step.status in {StepStatus.COMPLETED, StepStatus.DENIED}:
                value["result"] = result_of(connection, step)
            return value
        return value | self._of_map(connection, step)

    def _of_map(self, connection: Connection, step: StepRun) -> dict[str, JsonValue]:
        """Return the results of a map in the order of its items, and its errors."""
        inline = not item_rows.results_exceed(
            connection, step.run_id, step.step_no, step.round, most_bytes=INLINE_BYTES
        )
        results: list[JsonValue] = [None] * step.width
        errors: list[JsonValue] = []
        if inline or step.failed:
            for item in every_item(connection, step, results=inline):
                results[item.item_no] = item.result
                if item.status == StepStatus.FAILED and len(errors) < _MOST_ERRORS:
                    error = _error(item.error_code, item.error_message)
                    errors.append({"index": item.item_no, **error})
        if not inline:
            results_of = ResultsReference(str(step.run_id), step.step, step.width)
            return {"results": results_of, "errors": errors}
        return {"results": results, "errors": errors}


def result_of(connection: Connection, step: StepRun, *, before: int = 0) -> JsonValue:
    """Return the result of a step that is no map: that of its last round, or `before` that."""
    found = item_rows.items(
        connection, step.run_id, step.step_no, step.round - before, after=-1, limit=1, results=True
    )
    return found[0].result if found else None


def every_item(connection: Connection, step: StepRun, *, results: bool) -> Iterable[StepItem]:
    """Yield all items of a step's round."""
    after = -1
    while page := item_rows.items(
        connection, step.run_id, step.step_no, step.round,
        after=after, limit=_PAGE, results=results,
    ):  # fmt: skip
        yield from page
        after = page[-1].item_no


def evaluate(expression: str, scope: Mapping[str, Any]) -> JsonValue:
    """Return the value of an expression. Raises ExpressionError."""
    return compiled(expression).value(scope)


def holds(expression: str, scope: Mapping[str, Any]) -> bool:
    """Return the value of a condition. Raises ExpressionError."""
    return compiled(expression).holds(scope)


def _error(code: str | None, message: str | None) -> Any:
    return None if code is None else {"code": code, "message": message}
