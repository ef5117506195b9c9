"""Runs a workflow in the test's process, by the rules of the engine (celeriac.domain.workflows).

Steps and items run one after the other. Where the engine may choose an order, this is one of them.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

from celeriac.domain.approvals import Answer, Question
from celeriac.domain.errors import (
    CeleriacError,
    InputInvalidError,
    InvalidInputError,
    VariablesInvalidError,
)
from celeriac.domain.expressions import ExpressionError, compiled
from celeriac.domain.expressions.templates import render
from celeriac.domain.workflows.document import Workflow
from celeriac.domain.workflows.items import (
    TOO_MANY_FAILURES,
    Ended,
    allowed_failures,
    settled_as,
    too_many_failures,
)
from celeriac.domain.workflows.model import MAX_DEPTH, NoAnswer, Step, StepKind, UndoOn
from celeriac.domain.workflows.runs import advance, outcome_of_run, settled
from celeriac.domain.workflows.states import RunStatus, StepStatus, StepTransition
from celeriac.domain.workflows.undo import compensation_of, may_begin, undo_variables
from celeriac.kit.json_types import JsonObject, JsonValue
from celeriac.services.workflows.map_items import key_of, list_of
from celeriac.services.workflows.new_runs import check_input, with_defaults
from celeriac.services.workflows.plans import Plan
from celeriac.services.workflows.questions import answered, question_of
from celeriac.testing.workflow_runs import StepError, WorkflowRun
from celeriac.testing.workflow_steps import Item, StepState
from celeriac.testing.workflow_tasks import Tasks, workflow_of

StepAnswers = Mapping[str, bool | Answer | None]
"""By the id of an approval step; None if nobody answers in time.

A step of a workflow in a step has the path of both: `review/agree`.
"""


@dataclass
class Shared:
    """What the runs of one test share."""

    project: Mapping[str, Any]
    tasks: Tasks
    answers: StepAnswers


class Run:
    """One run of a workflow."""

    def __init__(
        self, test: Shared, workflow: Workflow, given: JsonObject, path: tuple[str, ...] = ()
    ) -> None:
        """Check the input. Raises InputInvalidError."""
        self._test = test
        self._path = path
        self._plan = Plan(uuid4(), uuid4(), workflow.name, 1, workflow.spec)
        self._input = with_defaults(self._plan, given)
        check_input(self._plan, self._input)
        self._steps = {
            name: StepState(is_map=step.map is not None)
            for name, step in workflow.spec.steps.items()
        }
        self._undone: dict[str, StepState] = {}
        self._results: dict[str, list[JsonValue]] = {}
        """Of maps, for `ctx.results`."""
        self._error: StepError | None = None
        self._questions: list[Question] = []
        self._about = {
            "id": str(uuid4()), "workflow": workflow.name, "version": 1, "owner": str(uuid4()),
            "workspace": str(uuid4()), "created_at": datetime.now(UTC).isoformat(),
            "schedule": None,
        }  # fmt: skip

    def run(self) -> WorkflowRun:
        """Run all steps to their end."""
        graph = self._plan.graph
        while True:
            for change in advance(graph, self._statuses()):
                self._steps[change.step].status = change.status
            ready = [name for name, step in self._steps.items() if step.status is StepStatus.READY]
            if not ready:
                break
            for name in ready:
                self._begin(name, self._plan.spec.steps[name])
        statuses = self._statuses()
        assert settled(graph, statuses), "what no step is ready for has settled"
        outcome, result = outcome_of_run(graph, statuses), None
        if outcome is RunStatus.COMPLETED and self._plan.spec.returns is not None:
            try:
                scope = self._scope(self._plan.returned, last=True)
                result = render(self._plan.spec.returns, scope)
            except ExpressionError as error:
                self._error = StepError(error.code, f"returns: {error.message}")
                outcome = RunStatus.FAILED
        if outcome is not RunStatus.COMPLETED:
            self._undo()
        undone = {name: step.status for name, step in self._undone.items()}
        return WorkflowRun(
            workflow=self._plan.workflow,
            status=outcome.value,
            error=self._error,
            steps={name: step.outcome() for name, step in self._steps.items()},
            undone={name: step.outcome() for name, step in self._undone.items()},
            compensation=compensation_of(undone.values()).value if undone else None,
            questions=tuple(self._questions),
            returned=result,
        )

    def _statuses(self) -> dict[str, StepStatus]:
        return {name: step.status for name, step in self._steps.items()}

    def _begin(self, name: str, spec: Step) -> None:
        """Run a ready step to its end."""
        step = self._steps[name]
        try:
            scope = self._scope(self._plan.graph.needs[name], last=spec.is_last)
            if spec.when is not None and not compiled(spec.when).holds(scope):
                step.move(StepTransition.SKIP)
                return
            step.status = StepStatus.RUNNING
            if spec.kind is StepKind.APPROVE:
                self._ask(name, spec, step, scope)
            elif spec.map is not None:
                self._map(name, spec, step, scope, list_of(spec.map, scope))
            else:
                self._rounds(name, spec, step, scope)
        except CeleriacError as error:
            if error is self._test.tasks.mistake:
                error.add_note(f"In the step {'/'.join((*self._path, name))}.")
                raise
            step.move(StepTransition.FAIL, StepError(error.code, error.message))
        if step.status is StepStatus.FAILED and not spec.tolerated and self._error is None:
            assert step.error is not None, "a step fails with an error"
            self._error = replace(step.error, step=name)

    # items

    def _map(
        self, name: str, spec: Step, step: StepState, scope: JsonObject, items: list[JsonValue]
    ) -> None:
        allowed = allowed_failures(spec, len(items))
        known: dict[str, Item] = {}
        failed = cancelled = 0
        for index, value in enumerate(items):
            if failed > allowed:
                step.items.append(Item())
                cancelled += 1
                continue
            done = self._item(name, spec, {**scope, "item": value, "index": index}, known)
            step.items.append(done)
            failed += done.error is not None and not done.shared
        ended = Ended(len(items), failed, cancelled)
        transition = settled_as(ended, allowed=allowed, stopped=False)
        error = None
        if transition is StepTransition.FAIL:
            first = next(
                (index, each.error.message)
                for index, each in enumerate(step.items)
                if each.error is not None
            )
            message = too_many_failures(failed, len(items), allowed, first=first)
            error = StepError(TOO_MANY_FAILURES, message)
        step.move(transition, error)
        self._results[name] = [each.result for each in step.items]

    def _rounds(self, name: str, spec: Step, step: StepState, scope: JsonObject) -> None:
        repeat = spec.repeat
        result: JsonValue = None
        for index in range(repeat.max if repeat else 1):
            seen = {**scope, "result": result, "index": index} if repeat else scope
            done = self._item(name, spec, seen, {})
            step.items.append(done)
            if done.error is not None:
                step.move(StepTransition.FAIL, done.error)
                return
            result = done.result
            if repeat and compiled(repeat.until).holds({**seen, "result": result}):
                break
        step.move(StepTransition.COMPLETE)

    def _item(self, name: str, spec: Step, scope: JsonObject, known: dict[str, Item]) -> Item:
        """Run one item; those with the same key share the first one that began."""
        done, key = Item(), None
        try:
            key = key_of(spec, scope)
            if key is not None and key in known:
                first = known[key]
                return Item(result=first.result, shared=True)
            given = render(spec.with_, scope)
            assert isinstance(given, dict), "an object is rendered to an object"
            done.given = given
            if key is not None:
                known[key] = done
            done.result = self._execute(name, spec, given)
        except CeleriacError as error:
            self._raise_mistake()
            done.error = _error_of(error)
            if isinstance(error, VariablesInvalidError | InputInvalidError):
                done.given = None  # it never began, so the next item with its key does
                known.pop(key or "", None)
        self._raise_mistake()
        return done

    def _execute(self, name: str, spec: Step, given: JsonObject) -> JsonValue:
        """Return the result of an execution or of a run below. Raises CeleriacError."""
        if spec.task is not None:
            self._test.tasks.step_results = self._results
            return self._test.tasks.run(spec.task, given, spec)
        assert spec.workflow is not None, "approvals have no items"
        if len(self._path) + 1 >= MAX_DEPTH:
            raise InvalidInputError(
                f"Workflows may be {MAX_DEPTH} levels deep; {spec.workflow!r} would be deeper.",
                field="workflow",
            )
        try:
            workflow = workflow_of(self._test.project, spec.workflow)
        except InvalidInputError as error:
            self._test.tasks.mistake = error
            raise
        below = Run(self._test, workflow, given, (*self._path, name))
        ended = below.run()
        self._questions += ended.questions
        if ended.error is not None:
            raise BelowError(ended.error)
        return ended.returned

    def _raise_mistake(self) -> None:
        if self._test.tasks.mistake is not None:
            raise self._test.tasks.mistake

    # approvals

    def _ask(self, name: str, spec: Step, step: StepState, scope: JsonObject) -> None:
        question = question_of(name, spec, scope)
        self._questions.append(question)
        path = "/".join((*self._path, name))
        if path not in self._test.answers:
            self._test.tasks.mistake = InvalidInputError(
                f"The step {path} asks: {question.title} Give run_workflow answers={{{path!r}: "
                "True}, or False, or None if nobody answers in time.",
                field="answers",
            )
            raise self._test.tasks.mistake
        said = self._test.answers[path]
        given = Answer(approved=said) if isinstance(said, bool) else said
        answer: JsonObject = {
            "approval_id": str(uuid4()),
            "approved": given is not None and given.approved,
            "by": "expiry" if given is None else given.by or "test",
            "note": "Nobody answered in time." if given is None else given.note,
            "expired": given is None,
            "at": datetime.now(UTC).isoformat(),
        }
        step.items.append(Item(given=question.arguments, result=answer))
        if given is None and spec.on_expiry is NoAnswer.FAIL:
            message = f"Nobody answered in time: {question.title}"
            step.items[0].result = None
            step.move(StepTransition.FAIL, StepError("approval_expired", message))
            return
        transition, code, message_ = answered(spec, answer)
        step.move(transition, None if code is None else StepError(code, message_ or ""))

    # compensation

    def _undo(self) -> None:
        """Undo the steps that have undo tasks, each after those that need it."""
        for name, spec in self._plan.spec.steps.items():
            if spec.undo is not None and self._to_undo(name, spec.undo.on):
                self._undone[name] = StepState(is_map=True)
        graph = self._plan.graph
        while names := may_begin(graph, {n: step.status for n, step in self._undone.items()}):
            for name in names:
                self._undo_step(name, self._undone[name])

    def _to_undo(self, name: str, on: UndoOn) -> list[Item]:
        """Return the items to undo, the last round first."""
        began = [each for each in self._steps[name].items if each.given is not None]
        if on is UndoOn.COMPLETED:
            began = [each for each in began if each.error is None]
        return began[::-1] if self._plan.spec.steps[name].repeat else began

    def _undo_step(self, name: str, step: StepState) -> None:
        undo = self._plan.spec.steps[name].undo
        assert undo is not None, "only steps with undo tasks are undone"
        for each in self._to_undo(name, undo.on):
            error = each.error
            said = None if error is None else {"code": error.code, "message": error.message}
            done = Item(given=undo_variables(each.given or {}, each.result, said))
            try:
                done.result = self._test.tasks.run(undo.task, done.given or {})
            except CeleriacError as failure:
                done.error = StepError(failure.code, failure.message)
            self._raise_mistake()
            step.items.append(done)
        failed = any(each.error is not None for each in step.items)
        step.status = StepStatus.FAILED if failed else StepStatus.COMPLETED

    # values

    def _scope(self, wanted: Iterable[str], *, last: bool) -> JsonObject:
        """Return the roots of expressions, with the steps in `wanted`."""
        status = RunStatus.COMPLETED if last else RunStatus.RUNNING
        error: JsonObject | None = None
        if self._error is not None:
            status = RunStatus.FAILED
            error = {
                "code": self._error.code,
                "message": self._error.message,
                "step": self._error.step,
            }
        return {
            "input": self._input,
            "steps": {name: self._steps[name].seen() for name in wanted},
            "run": {**self._about, "status": status.value, "error": error},
        }


class BelowError(CeleriacError):
    """A run of a workflow in a step has failed; code and message are those of the run."""

    def __init__(self, error: StepError) -> None:
        super().__init__(error.message)
        self.code = error.code  # type: ignore[misc]
        self.path = "/".join(filter(None, (error.step, error.below))) or None


def _error_of(error: CeleriacError) -> StepError:
    below = error.path if isinstance(error, BelowError) else None
    return StepError(error.code, error.message, below=below)
