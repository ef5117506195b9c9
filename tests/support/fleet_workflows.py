"""Workflows on a fleet: defined over the functions of `fleet_agents`, and run by real workers."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

from sqlalchemy import text

from celeriac.domain.workflows.model import WorkflowSpec
from celeriac.services.workflows.catalog import Workflows
from celeriac.services.workflows.runs import Runs, StartRequest
from tests.support.fleet import Fleet
from tests.support.waiting import wait_until
from tests.support.workflows import Ran, assert_counted

Steps = Mapping[str, Mapping[str, Any]]
"""The steps of a document; `task` names a function of `fleet_agents`."""

_MADE = text("""
SELECT step, count(*) FROM executions JOIN step_runs USING (run_id, step_no)
WHERE run_id = ANY(:runs) GROUP BY step
""")
_BELOW = text("""
WITH RECURSIVE below AS (
    SELECT CAST(:run AS uuid) AS id
    UNION ALL
    SELECT r.id FROM workflow_runs r JOIN below ON r.parent_run_id = below.id
)
SELECT id FROM below
""")


class FleetWorkflows:
    """Defines workflows and follows their runs, beside the workers of a fleet."""

    def __init__(self, fleet: Fleet) -> None:
        shared = fleet.container
        self.fleet = fleet
        self.workflows = Workflows(shared.database)
        self.runs = Runs(shared.database, shared.plans, shared.advance)
        self._tasks: dict[str, str] = {}

    def task(self, function: str, **spec: Any) -> str:
        """Return the name of a task for a function of `fleet_agents`, made at its first mention."""
        if function not in self._tasks:
            made = self.fleet.task(function, **spec)
            specs, workspace = self.fleet.container.specs, self.fleet.actor.workspace_id
            self._tasks[function] = specs.current(made, workspace=workspace).task_name
        return self._tasks[function]

    def define(self, name: str, steps: Steps, **fields: Any) -> UUID:
        """Store a workflow; `task` of a step and of its `undo` names a function of the fleet."""
        named = {key: self._named(step) for key, step in steps.items()}
        spec = WorkflowSpec.model_validate({"steps": named, **fields})
        return self.workflows.create(self.fleet.actor, name=name, spec=spec).id

    def _named(self, step: Mapping[str, Any]) -> dict[str, Any]:
        """Return a step, or an undo, with the name of its task."""
        named = {**step, "task": self.task(step["task"])} if "task" in step else dict(step)
        return {**named, "undo": self._named(step["undo"])} if "undo" in step else named

    def start(self, workflow: UUID, **given: Any) -> UUID:
        """Start a run."""
        return self.runs.start(self.fleet.actor, StartRequest(workflow, given)).run_id

    def ran(self, run_id: UUID) -> Ran:
        """Return a run and its steps as they are now."""
        return Ran(self.runs, self.fleet.actor, run_id)

    def ended(self, run_id: UUID, *, within: float = 45.0) -> Ran:
        """Wait until a run has ended, check that the counters are right, and return it."""
        return self.all_ended([run_id], within=within)[0]

    def all_ended(self, run_ids: Sequence[UUID], *, within: float = 45.0) -> list[Ran]:
        """Wait until runs have ended, check that the counters are right, and return them."""
        for run_id in run_ids:
            self._wait_end(run_id, within)
        assert_counted(self.fleet.container.database)
        self.fleet.assert_consistent()
        return [self.ran(run_id) for run_id in run_ids]

    def _wait_end(self, run_id: UUID, within: float) -> None:
        wait_until(
            lambda: self.runs.get(self.fleet.actor, run_id).status.terminal,
            f"the run {run_id} ends",
            within=within,
        )

    def run(self, name: str, steps: Steps, *, given: Any = None, **fields: Any) -> Ran:
        """Define a workflow, and run it to its end."""
        return self.ended(self.start(self.define(name, steps, **fields), **(given or {})))

    def wait_lines(self, diary: Path, count: int) -> None:
        """Wait until agents have written so many lines into a diary."""
        wait_until(
            lambda: diary.exists() and diary.read_bytes().count(b"\n") == count,
            f"{diary.name} has {count} lines",
        )

    def below(self, run_id: UUID) -> list[UUID]:
        """Return a run and all runs below it."""
        with self.fleet.container.database.autocommit() as connection:
            return list(connection.execute(_BELOW, {"run": run_id}).scalars())

    def made(self, run_id: UUID) -> Counter[str]:
        """Return how many executions each step has made, in the run and in those below it."""
        with self.fleet.container.database.autocommit() as connection:
            rows = connection.execute(_MADE, {"runs": self.below(run_id)})
            return Counter({row[0]: row[1] for row in rows})
