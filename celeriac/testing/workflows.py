"""Run a workflow in a test (docs/testing-agents.md#workflows)."""

from collections.abc import Iterable
from pathlib import Path

from celeriac.domain.errors import InvalidInputError
from celeriac.domain.workflows.document import Workflow
from celeriac.domain.workflows.model import StepKind
from celeriac.kit.json_types import JsonObject
from celeriac.testing.running import NOTHING_RECORDED, Answers
from celeriac.testing.workflow_engine import Run, Shared, StepAnswers
from celeriac.testing.workflow_runs import WorkflowRun
from celeriac.testing.workflow_tasks import (
    StandIns,
    Tasks,
    WorkflowSource,
    joined_cassettes,
    read_project_file,
    read_workflow,
)


def run_workflow(
    workflow: WorkflowSource,
    input: JsonObject | None = None,  # noqa: A002 - as a run's input is called everywhere
    *,
    project: str | Path | None = None,
    tasks: StandIns | None = None,
    cassettes: str | Path | Iterable[str | Path] | None = None,
    answers: StepAnswers | None = None,
    answer: Answers | None = None,
) -> WorkflowRun:
    """Run a workflow in the test's process, and return how it and its steps have ended.

    `workflow` is a document, its text or file, a `celeriac.Workflow`, or the name of one in
    `project`, the file for `celeriac apply` with agents, tasks and workflows. A task is what
    `tasks` gives for its name, else that of the project, else the function that is registered with
    `@celeriac.agent` under the name; so are the tasks that durable functions start. Requests to
    models are answered by `cassettes`: files, or a directory; each execution may use all answers.
    `answers` are those to approval steps, `answer` is called for questions of agents, as in
    `run_agent`. Retries happen as recorded. Limits and deadlines of runs are not kept, and results
    of maps are always handed on whole.

    A failed run is returned, not raised; its `result` raises AssertionError with the step and why.
    Raises WorkflowInvalidError for a wrong document, InputInvalidError for a wrong input,
    InvalidInputError for a task or an answer that is missing, CassetteMismatchError for a request
    that was not recorded, and what a stand-in raises other than a CeleriacError.
    """
    content = read_project_file(project)
    cassette = NOTHING_RECORDED if cassettes is None else joined_cassettes(cassettes)
    shared = Shared(content, Tasks(content, tasks or {}, cassette, answer), answers or {})
    read = read_workflow(workflow, content)
    _check_answers(read, shared.answers)
    return Run(shared, read, input or {}).run()


def _check_answers(workflow: Workflow, answers: StepAnswers) -> None:
    """Raise InvalidInputError if an answer is to no step of the workflow."""
    wanted = {StepKind.APPROVE: "asks", StepKind.WORKFLOW: "runs a workflow"}
    for path in answers:
        first, _, below = path.partition("/")
        step = workflow.spec.steps.get(first)
        kind = StepKind.WORKFLOW if below else StepKind.APPROVE
        if step is None or step.kind is not kind:
            raise InvalidInputError(
                f"answers has {path!r}, but {workflow.name!r} has no step {first!r} that "
                f"{wanted[kind]}.",
                field="answers",
            )
