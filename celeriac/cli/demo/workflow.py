"""The demo's workflow: a map over the texts and a reduce, whose worker is killed in the middle."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from celeriac.cli.demo.proof import DemoFailedError, Result, fault_in, results_of
from celeriac.cli.workflows.tree import step_text
from celeriac.client import Client
from celeriac.domain.executions.states import Status
from celeriac.domain.workflows.states import RunStatus
from celeriac.kit.words import counted
from celeriac.wire import Run, RunItem

_POLL_SECONDS = 0.2
_AT_KILL = 2
"""The worker is killed when so many items of the map are completed, and one runs."""


@dataclass(frozen=True, slots=True)
class WorkflowResult:
    """The run after its end, and the executions of its two steps."""

    run: Run
    items: Mapping[str, Sequence[Result]]


@dataclass(frozen=True, slots=True)
class WorkflowScenario:
    """Runs `document`, a workflow of a map and a step after it, once on all of `texts`.

    `kill_worker` kills it, `say` prints a line, and `deadline` is a `time.monotonic()` time.
    """

    client: Client
    document: Mapping[str, Any]
    texts: Mapping[str, str]
    kill_worker: Callable[[], None]
    say: Callable[[str], None]
    deadline: float

    def run(self) -> WorkflowResult:
        """Run it to its end. Raises DemoFailedError, ClientError."""
        name = self.document["workflow"]
        accepted = self.client.workflows.start(name, {"texts": [*self.texts.values()]})
        self.say(
            f"Started the workflow {name}: {counted(len(self.texts), 'text')} at the same time, "
            "then one step over all results."
        )
        seen: dict[str, str] = {}
        killed = False
        while True:
            run = self.client.workflow_runs.get(accepted.run_id)
            for step in run.steps:
                line = step_text(step)
                if step.items and seen.get(step.step) != line:
                    self.say(line)
                seen[step.step] = line
            if run.status.terminal:
                return self._result(run)
            if not killed and _ready_for_kill(self._items(run, 0)):
                self.kill_worker()
                killed = True
            if time.monotonic() > self.deadline:
                raise DemoFailedError("The time is up: the run of the workflow has not ended.")
            time.sleep(_POLL_SECONDS)

    def _items(self, run: Run, step: int) -> Sequence[RunItem]:
        return list(self.client.workflow_runs.items(run.id, run.steps[step].step))

    def _result(self, run: Run) -> WorkflowResult:
        """Return the run with its executions.

        Raises DemoFailedError unless it and all of them completed exactly once, and one item lost
        its worker.
        """
        if run.status is not RunStatus.COMPLETED:
            raise DemoFailedError(
                f"The run of {run.workflow_name} ended {run.status.value}: {run.error_message}"
            )
        if fault := fault_in(list(self.client.workflow_runs.events(run.id))):
            raise DemoFailedError(f"The run of {run.workflow_name} {fault}.")
        names = [*self.texts]
        labels = {}
        for number, step in enumerate(run.steps):
            executions = [each.execution_id for each in self._items(run, number)]
            wanted = names if number == 0 else ["all texts"]
            if len(executions) != len(wanted):
                raise DemoFailedError(
                    f"The step {step.step} has {counted(len(executions), 'execution')}, not "
                    f"{len(wanted)}."
                )
            for execution_id, text in zip(executions, wanted, strict=True):
                if execution_id is not None:
                    labels[execution_id] = (step.step, text)
        results = results_of(self.client, labels)
        return WorkflowResult(
            run,
            {
                step.step: [each for each in results if each["task"] == step.step]
                for step in run.steps
            },
        )


def _ready_for_kill(items: Sequence[RunItem]) -> bool:
    statuses = [each.status for each in items]
    return statuses.count(Status.COMPLETED) >= _AT_KILL and Status.RUNNING in statuses
