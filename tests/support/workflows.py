"""Workflows on a real database; their executions are ended by the test, as a worker would."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import text

from celeriac.db.engine import Database
from celeriac.db.workflows import repair
from celeriac.domain.accounts import Actor
from celeriac.domain.agents import PythonAgent
from celeriac.domain.approvals import Answer, Approval, ApprovalFilter, ApprovalStatus
from celeriac.domain.executions.model import Claim, Completed, Failed, Failure, Outcome
from celeriac.domain.tasks import DEFAULT_QUEUE, TaskSpec
from celeriac.domain.workflows.model import WorkflowSpec
from celeriac.domain.workflows.records import RunFilter, StepRun, WorkflowRun
from celeriac.domain.workflows.states import RunStatus, StepStatus
from celeriac.kit.json_types import JsonObject
from celeriac.services.approvals.answer import Approvals
from celeriac.services.approvals.ask import Expire
from celeriac.services.catalog.agents import Agents
from celeriac.services.catalog.specs import SpecCache
from celeriac.services.catalog.tasks import Tasks
from celeriac.services.executions.stop import Cancel
from celeriac.services.workflows.advance import Advance
from celeriac.services.workflows.catalog import Workflows
from celeriac.services.workflows.plans import Plans
from celeriac.services.workflows.runs import Runs, StartRequest
from celeriac.services.workflows.spawn import Spawn
from tests.support import fleet_agents
from tests.support.core import Core

Work = Callable[[str, JsonObject], object]
"""What a task does: its name and variables → its result, or an outcome."""

FAILS = Failed(Failure("agent_failed", "it failed", {"type": "ValueError", "attempt": 1}))


def echo(_task: str, variables: JsonObject) -> object:
    """Return the variables."""
    return variables


def advance_of(core: Core, plans: Plans | None = None) -> Advance:
    """Return the service that advances runs."""
    database = core.database
    plans = plans or Plans(database)
    spawn = Spawn(database, plans, SpecCache(database), core.dispatch)
    return Advance(database, plans, spawn, core.dispatch, Cancel(database, core.live))


class Flows:
    """The services of workflows, and tasks that do what the test says."""

    def __init__(self, core: Core, *tasks: str) -> None:
        self.core = core
        database = core.database
        self.plans = Plans(database)
        self.advance = advance_of(core, self.plans)
        self.approvals = Approvals(
            database, core.live, core.dispatch.send_eligible, self.advance.after
        )
        self.expire = Expire(database, core.live, advance=self.advance.after)
        self.cancel = Cancel(database, core.live, self.advance.after_executions)
        self.runs = Runs(database, self.plans, self.advance)
        self.workflows = Workflows(database)
        self.names: dict[UUID, str] = {}
        self.done: list[tuple[str, JsonObject]] = []
        """The executions that were run, in their order."""
        Agents(database).create(
            core.actor, name="worker", spec=PythonAgent(function=f"{fleet_agents.__name__}:noop")
        )
        for name in tasks:
            self.add_task(name)

    def add_task(self, name: str, **spec: Any) -> UUID:
        """Create a task."""
        made = Tasks(self.core.database).create(
            self.core.actor, name=name, agent="worker", spec=TaskSpec(**spec)
        )
        self.names[made.id] = name
        return made.id

    def define(self, name: str, steps: Mapping[str, Any], **fields: Any) -> UUID:
        """Create a workflow, with the tasks that its steps name."""
        for step in steps.values():
            undo = step.get("undo")
            for task in (step.get("task"), undo["task"] if isinstance(undo, dict) else undo):
                if task is not None and task not in self.names.values():
                    self.add_task(task)
        spec = WorkflowSpec.model_validate({"steps": dict(steps), **fields})
        return self.workflows.create(self.core.actor, name=name, spec=spec).id

    def start(self, workflow_id: UUID, **given: Any) -> UUID:
        """Start a run."""
        return self.runs.start(self.core.actor, StartRequest(workflow_id, given)).run_id

    def run(self, steps: Mapping[str, Any], work: Work = echo, **fields: Any) -> "Ran":
        """Define a workflow with these steps, and run it to its end."""
        given = fields.pop("given", {})
        run_id = self.start(
            self.define(f"w{len(self.names)}-{len(self.done)}", steps, **fields), **given
        )
        self.drive(work)
        return self.ran(run_id)

    def drive(self, work: Work = echo, *, most: int | None = None) -> int:
        """Run what there is, and what follows from it; return how many executions were run."""
        count = 0
        while most is None or count < most:
            claim = self.take()
            if claim is None:
                return count
            self.end(claim, work)
            count += 1
        return count

    def keep(self, work: Work = echo) -> None:
        """Let the keeper go on with what a request has left, as it does after some time."""
        while True:
            self.core.execute("UPDATE step_runs SET due_at = due_at - interval '1 minute'")
            if not self.advance.due(100) + self.drive(work):
                return

    def take(self) -> Claim | None:
        """Claim the next execution, as a worker does; None if there is none."""
        core = self.core
        for _ in range(2):
            while (envelope := core.queue.take(DEFAULT_QUEUE)) is not None:
                claim = core.claim(envelope.message)
                if claim is not None:
                    return claim
            core.dispatch.send_due()
        return None

    def end(self, claim: Claim, work: Work = echo) -> None:
        """End an attempt, and advance its run, as a worker does."""
        name = self.names.get(claim.task_id, "?")
        self.done.append((name, claim.variables))
        given = work(name, claim.variables)
        outcome: Outcome = given if isinstance(given, Outcome) else Completed(given)
        finished = self.core.finish(claim, outcome, (), None)
        ended = finished.status is not None and finished.status.terminal
        if claim.run_id is not None and ended:
            self.advance.after([claim.run_id])

    def asked(self, run_id: UUID | None = None, *, only_open: bool = True) -> list[Approval]:
        """Return the questions of a run, or of all, the newest first."""
        statuses = [ApprovalStatus.OPEN] if only_open else []
        wanted = ApprovalFilter(statuses=statuses, run_id=run_id)
        return list(self.approvals.find(self.core.actor, wanted).items)

    def answer(self, run_id: UUID, *, approved: bool, note: str = "") -> Approval:
        """Answer the only open question of a run, as the API does."""
        (asked,) = self.asked(run_id)
        return self.approvals.answer(self.core.actor, asked.id, Answer(approved, note=note))

    def lapse(self, seconds: float = 1e9) -> int:
        """Let the time of open questions pass, and the keeper find out; return how many expired."""
        self.core.execute(
            "UPDATE approvals SET expires_at = expires_at - make_interval(secs => :seconds)"
            " WHERE status = 'open'",
            seconds=seconds,
        )
        return self.expire.expire_overdue(100)

    def ran(self, run_id: UUID) -> "Ran":
        """Return a run and its steps as they are now."""
        return Ran(self.runs, self.core.actor, run_id)

    def children(self, run_id: UUID) -> list[WorkflowRun]:
        """Return the runs below a run, one level."""
        wanted = RunFilter(parent_run_id=run_id)
        return list(self.runs.find(self.core.actor, wanted).items)

    def assert_counted(self) -> None:
        """Fail where counters contradict the items that they count, or something is due."""
        assert_counted(self.core.database)
        self.core.assert_consistent()


def statuses(flows: Flows, *run_ids: UUID) -> list[str]:
    """Return the statuses of runs."""
    return [flows.ran(run_id).status.value for run_id in run_ids]


def settle(flows: Flows) -> None:
    """Run everything to its end; no slot may be left, and the keeper has nothing to do."""
    flows.drive()
    flows.assert_counted()
    assert flows.core.count("run_limits") == 0
    assert flows.advance.waiting(100) == 0
    flows.core.assert_consistent()


def assert_counted(database: Database) -> None:
    """Fail where counters of runs contradict the items that they count, or something is due."""
    with database.autocommit() as connection:
        faults = list(connection.execute(_MISCOUNTED))
        unlike = list(connection.execute(_ENDS_UNLIKE))
        live = repair.live_runs(connection, after=UUID(int=0), older_than=-60, limit=10_000)
        to_repair = {run_id: repair.check(connection, run_id) for run_id in live}
    assert faults == []
    assert unlike == [], "each execution and each run below a run that has ended has one end"
    assert not any(wrong or stuck for wrong, stuck in to_repair.values()), to_repair


_MISCOUNTED = text("""
SELECT r.id, s.step, s.width, s.spawned, s.shards_left, f.remaining, l.live
FROM workflow_runs r JOIN step_runs s ON s.run_id = r.id
LEFT JOIN LATERAL (SELECT sum(remaining) AS remaining, count(*) FILTER (WHERE remaining > 0) AS left
                   FROM fan_ins f WHERE f.run_id = s.run_id AND f.step_no = s.step_no) f ON true
LEFT JOIN LATERAL (SELECT count(*) AS live FROM executions e
                   WHERE e.run_id = s.run_id AND e.step_no = s.step_no
                     AND e.completed_at IS NULL) l ON true
LEFT JOIN LATERAL (SELECT count(*) AS open FROM approvals a
                   WHERE a.run_id = s.run_id AND a.step_no = s.step_no
                     AND a.status = 'open') q ON true
WHERE s.status = 'running' AND s.kind = 'task'
      AND (f.remaining <> l.live + s.width - s.spawned OR f.left <> s.shards_left)
   OR s.status NOT IN ('running', 'blocked')
      AND (f.remaining <> 0 OR s.shards_left <> 0 OR l.live > 0)
   OR s.status = 'running' AND s.kind = 'approve'
      AND (s.due_at IS NULL AND q.open <> 1 OR f.remaining <> q.open + s.width - s.spawned)
   OR s.status <> 'running' AND q.open > 0
   OR s.status = 'ready'
   OR r.completed_at IS NOT NULL AND s.status IN ('blocked', 'ready', 'running')
   OR r.completed_at IS NULL AND s.due_at IS NOT NULL AND s.due_at < now() - interval '1 minute'
""")


_ENDS_UNLIKE = text("""
SELECT s.id, s.ended, s.status, e.number, e.status AS noted
FROM (SELECT id, run_id, step_no, item_no, status, completed_at IS NOT NULL AS ended
      FROM executions WHERE run_id IS NOT NULL
      UNION ALL
      SELECT id, parent_run_id, parent_step_no, parent_item_no, status, completed_at IS NOT NULL
      FROM workflow_runs WHERE parent_run_id IS NOT NULL) s
LEFT JOIN (SELECT run_id, step_no, item_no, coalesce(execution_id, child_run_id) AS id,
                  count(*) AS number, min(status) AS status
           FROM item_ends GROUP BY 1, 2, 3, 4) e USING (run_id, step_no, item_no, id)
WHERE coalesce(e.number, 0) <> CASE WHEN s.ended THEN 1 ELSE 0 END OR e.status <> s.status
""")


class Ran:
    """A run and its steps as they were at one time."""

    def __init__(self, runs: Runs, actor: Actor, run_id: UUID) -> None:
        self.run = runs.get(actor, run_id)
        self.steps: dict[str, StepRun] = {step.step: step for step in runs.steps(run_id)}
        self.id = run_id
        self._runs = runs
        self._actor = actor

    @property
    def status(self) -> RunStatus:
        return self.run.status

    @property
    def result(self) -> Any:
        return self.run.result

    @property
    def statuses(self) -> dict[str, str]:
        return {name: step.status.value for name, step in self.steps.items()}

    def status_of(self, step: str) -> StepStatus:
        return self.steps[step].status

    def items(self, step: str) -> Sequence[Any]:
        """Return the items of a step, with their results."""
        return self._runs.items(self._actor, self.id, step, limit=100_000, results=True).items

    def events(self) -> list[tuple[str, JsonObject]]:
        log = self._runs.log(self.id, after=0, limit=10_000)
        return [(event.type.value, event.data) for event in log]
