"""Random workflows, run on a real database under faults, and the rules that hold all the same."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from random import Random
from typing import Any
from uuid import UUID

from hypothesis import strategies as st

from celeriac.domain.errors import DatabaseUnavailableError
from celeriac.domain.executions.model import Claim, Failure, Idempotency, Retry
from celeriac.domain.executions.states import Status
from celeriac.domain.workflows.graph import Graph
from celeriac.domain.workflows.items import Ended, allowed_failures, settled_as
from celeriac.domain.workflows.model import Step, WorkflowSpec
from celeriac.domain.workflows.runs import Join, begins, join_of, outcome_of_run, settled
from celeriac.domain.workflows.states import STEP_TRANSITIONS, RunStatus, StepStatus
from celeriac.kit.json_types import JsonObject
from celeriac.services.workflows.runs import StartRequest
from tests.support.core import LEASE_SECONDS, Core
from tests.support.forgetful import ForgetfulDatabase
from tests.support.workflows import FAILS, Flows, Ran

Document = dict[str, dict[str, Any]]
"""The steps of a workflow."""

SUB = "sub"
"""The name of the workflow that others run."""

_NEVER, _ALWAYS = "run.schedule != null", "run.schedule == null"
_RETRIED = Retry(Failure("agent_failed", "again", {"type": "E", "attempt": 1}), 0.0)
_LONG_SECONDS = 3600.0
_MOST_IDLE = 25


@st.composite
def documents(draw: st.DrawFn, prefix: str, *, most: int, subs: bool) -> Document:
    """Steps that need some of those before them: maps, repeats, conditions, sub-workflows."""
    steps: Document = {}
    for number in range(draw(st.integers(1, most))):
        name = f"{prefix}{number}"
        ordinary = [key for key, step in steps.items() if "run" not in step]
        step: dict[str, Any] = {}
        step["needs"] = draw(st.lists(st.sampled_from(ordinary), unique=True)) if ordinary else []
        kind = draw(st.sampled_from(["step", "map", "repeat"]))
        index = "0" if kind == "step" else "index"
        if subs and draw(st.integers(0, 2)) == 0:
            step["workflow"] = SUB
        else:
            step |= {"task": "work", "with": {"step": name, "item": f"${{{{ {index} }}}}"}}
        if kind == "map":
            step["map"] = str(list(range(draw(st.integers(0, 5)))))
            step["parallel"] = draw(st.sampled_from([1, 2, None]))
            if draw(st.booleans()):
                step["max_failures"] = draw(st.sampled_from([0, 1, 2, "50%"]))
        elif kind == "repeat":
            until = f"index >= {draw(st.integers(0, 3))}"
            step["repeat"] = {"until": until, "max": draw(st.integers(1, 3))}
        if draw(st.booleans()):
            step["on_failure"] = "continue"
        if draw(st.integers(0, 3)) == 0:
            step["when"] = draw(st.sampled_from([_NEVER, _ALWAYS]))
        if number and draw(st.integers(0, 5)) == 0:
            step["run"] = draw(st.sampled_from(["failure", "always"]))
        steps[name] = step
    return steps


@dataclass(frozen=True)
class Scenario:
    """Workflows, and what happens to a run of the last of them."""

    documents: Mapping[str, Document]
    seed: int
    chance_of_failure: float
    """Of each item."""
    cancel_after: int | None
    """So many ends; None: it is not cancelled."""
    on_failure: str


@st.composite
def scenarios(draw: st.DrawFn) -> Scenario:
    """Any workflow, in which any things happen."""
    return Scenario(
        {
            SUB: draw(documents("t", most=3, subs=False)),
            "top": draw(documents("s", most=6, subs=True)),
        },
        draw(st.integers(0, 2**32)),
        draw(st.sampled_from([0.0, 0.0, 0.05, 0.3])),
        draw(st.one_of(st.none(), st.integers(0, 15))),
        draw(st.sampled_from(["finish_running", "cancel_running"])),
    )


class FaultyRun:
    """One run of a random workflow, with the faults that a source of chance chooses.

    Its workers, its clients and its keeper lose answers of the database after the commit, at any of
    the transactions of an act, and do nothing more then: as a process that was killed there.
    Messages get lost or come twice; workers die with what they run.
    """

    def __init__(self, database: ForgetfulDatabase, scenario: Scenario, *, faults: bool) -> None:
        self.flows = Flows(Core(database))
        self._database = database
        self._scenario = scenario
        self._chance = Random(scenario.seed)
        self._faults = faults
        self._tried: Counter[UUID] = Counter()
        self._fails: dict[tuple[UUID, str, int], bool] = {}
        self.ended: Counter[UUID] = Counter()
        """How often each execution was ended by its worker."""
        self.flows.add_task("work")
        self.specs: dict[UUID, Graph] = {}
        for name, steps in scenario.documents.items():
            self._top = self.flows.define(name, steps, on_failure=scenario.on_failure)
            fields = {"steps": steps, "on_failure": scenario.on_failure}
            self.specs[self._top] = Graph.of(WorkflowSpec.model_validate(fields))
        self.run_id = self._started()

    # acts, each of which a fault may cut off

    @contextmanager
    def _cut(self) -> Iterator[None]:
        """Perhaps lose an answer in the block, which then ends there."""
        if self._faults and self._chance.random() < 0.4:
            self._database.spared = self._chance.randrange(10)
            self._database.losses = 1
        try:
            yield
        except DatabaseUnavailableError:
            pass
        finally:
            self._database.spared = self._database.losses = 0

    def _started(self) -> UUID:
        request = StartRequest(self._top, {}, idempotency=Idempotency("one", "one"))
        with self._cut():
            self.flows.runs.start(self.flows.core.actor, request)
        return self.flows.runs.start(self.flows.core.actor, request).run_id

    def cancel(self) -> None:
        """Cancel the run, and ask again if the answer was lost."""
        with self._cut():
            self.flows.runs.cancel(self.flows.core.actor, self.run_id)
        self.flows.runs.cancel(self.flows.core.actor, self.run_id)

    def end(self, claim: Claim) -> None:
        """End an attempt, as a worker does that may die after any transaction."""
        with self._cut():
            self.flows.end(claim, self._work(claim))
        if self.flows.core.get(claim.lease.execution_id).status.terminal:
            self.ended[claim.lease.execution_id] += 1
            if self._chance.random() < 0.2:  # the message comes again
                message = self.flows.core.message(claim.lease.execution_id)
                assert self.flows.core.claim(message) is None

    def _work(self, claim: Claim) -> Callable[[str, JsonObject], object]:
        """Fail or complete, perhaps after a retry: decided once for each item of a step."""
        self._tried[claim.lease.execution_id] += 1
        given, run_id = claim.variables, claim.run_id
        assert run_id is not None
        key = (run_id, given["step"], given["item"])
        chance = self._scenario.chance_of_failure
        fails = self._fails.setdefault(key, self._chance.random() < chance)
        if self._tried[claim.lease.execution_id] == 1 and self._chance.random() < 0.1:
            return lambda _name, _given: _RETRIED
        return lambda _name, _given: FAILS if fails else given["item"]

    # the run

    def drive(self) -> Ran:
        """Run everything in a random order until the run has ended; fail if it hangs."""
        cancel_after = self._scenario.cancel_after
        running: list[Claim] = []
        ended = idle = 0
        while True:
            while (claim := self.flows.take()) is not None:
                self._assert_may_begin(claim)
                running.append(claim)
                idle = 0
            if cancel_after is not None and ended >= cancel_after:
                self.cancel()
                cancel_after = None
                continue
            if running:
                claim = running.pop(self._chance.randrange(len(running)))
                if self._faults and self._chance.random() < 0.05:
                    continue  # its worker has died
                self.end(claim)
                ended += 1
                if self._faults and self._chance.random() < 0.1:
                    self.flows.core.lose_messages()
                continue
            if self.flows.ran(self.run_id).status.terminal and not self._live():
                return self.flows.ran(self.run_id)
            idle += 1
            assert idle < _MOST_IDLE, f"the run hangs: {self.flows.ran(self.run_id).statuses}"
            self._keep()

    def _live(self) -> bool:
        return any(not run.status.terminal for run in self.all_runs())

    def _keep(self) -> None:
        """Let time pass, and the keeper do its work."""
        core = self.flows.core
        core.pass_time(_LONG_SECONDS if self._chance.random() < 0.5 else LEASE_SECONDS + 1)
        with self._cut():
            core.rescue()
            core.resend()
        core.execute("UPDATE step_runs SET due_at = due_at - interval '1 minute'")
        with self._cut():
            self.flows.advance.due(100)
        core.execute(
            "UPDATE executions SET held = NULL WHERE held = 'time' AND available_at <= now()"
        )
        core.dispatch.send_due()

    def _assert_may_begin(self, claim: Claim) -> None:
        """Fail if a step begins before what it needs has settled, or after a cancellation."""
        assert claim.run_id is not None
        ran = self.flows.ran(claim.run_id)
        name = claim.variables["step"]
        graph = self.specs[ran.run.workflow_id]
        statuses = _statuses(ran)
        for need in graph.needs[name]:
            assert statuses[need].terminal, f"{name} began before {need} had settled"
        if graph.steps[name].is_last:
            assert settled(graph, statuses), f"{name} began before the others had settled"
        elif not self._faults:
            assert ran.run.cancel_requested_at is None, f"{name} began in a cancelled run"

    # what must hold in the end

    def all_runs(self) -> list[Ran]:
        """Return the run and all below it."""
        found, todo = [], [self.run_id]
        while todo:
            run_id = todo.pop()
            found.append(self.flows.ran(run_id))
            todo += [child.id for child in self.flows.children(run_id)]
        return found

    def assert_right(self) -> None:
        """Fail where a run contradicts the rules of `domain/workflows`, or its items."""
        self.flows.assert_counted()
        assert self.flows.advance.due(100) == 0, "something is left to do"
        assert set(self.ended.values()) <= {1}, "an execution was ended twice"
        for ran in self.all_runs():
            self._assert_outcome(ran)
            for name in ran.steps:
                self._assert_step(ran, name)

    def _assert_outcome(self, ran: Ran) -> None:
        graph, statuses = self.specs[ran.run.workflow_id], _statuses(ran)
        assert all(status.terminal for status in statuses.values())
        cancelled = ran.run.cancel_requested_at is not None
        stopped = RunStatus.CANCELLED if cancelled else None
        assert ran.status is outcome_of_run(graph, statuses, stopped=stopped)
        for name in graph.last:
            wanted = begins(graph.steps[name], ran.status)
            unwanted = statuses[name] is StepStatus.SKIPPED
            assert not unwanted or not wanted or graph.steps[name].when == _NEVER, name
            assert wanted or unwanted, f"{name} has run after a run that is {ran.status}"

    def _assert_step(self, ran: Ran, name: str) -> None:
        graph, step = self.specs[ran.run.workflow_id], ran.steps[name]
        spec, statuses = graph.steps[name], _statuses(ran)
        stopped = ran.run.error_code is not None or ran.run.cancel_requested_at is not None
        if step.round == 0:
            assert step.status in {StepStatus.SKIPPED, StepStatus.CANCELLED}
            if step.status is StepStatus.CANCELLED:
                assert stopped
            elif not spec.is_last and spec.when != _NEVER:
                assert join_of(graph, name, statuses) is Join.SKIPPED
            return
        if not spec.is_last:
            assert join_of(graph, name, statuses) is Join.READY
        self._assert_items(ran, name, spec, stopped=stopped and not spec.is_last)

    def _assert_items(self, ran: Ran, name: str, spec: Step, *, stopped: bool) -> None:
        step = ran.steps[name]
        if step.width == 0:
            assert step.status is StepStatus.COMPLETED
            return
        items = ran.items(name)
        found = Counter(item.status for item in items)
        missing = step.width - len(items)
        assert found[Status.COMPLETED] == step.completed, name
        assert found[Status.FAILED] == step.failed, name
        assert found[Status.CANCELLED] + missing == step.cancelled, name
        assert (step.remaining, step.shards_left) == (0, 0), name
        allowed = allowed_failures(spec, step.width)
        outcome = settled_as(
            Ended(step.width, step.failed, step.cancelled), allowed=allowed, stopped=stopped
        )
        reached = STEP_TRANSITIONS[outcome][1]
        assert step.status is reached or not stopped or reached is StepStatus.CANCELLED, name
        if spec.repeat is not None:
            assert step.round <= spec.repeat.max
        if spec.repeat is not None and step.status is StepStatus.COMPLETED and not stopped:
            until = int(spec.repeat.until.rsplit(" ", 1)[1])
            assert step.round == min(until + 1, spec.repeat.max), name


def _statuses(ran: Ran) -> dict[str, StepStatus]:
    return {name: step.status for name, step in ran.steps.items()}
