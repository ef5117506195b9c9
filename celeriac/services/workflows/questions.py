"""Approval steps of runs: what they ask, and what the answer means for the step."""

from collections.abc import Mapping
from typing import Any

from celeriac.db.engine import Connection
from celeriac.db.workflows import items as item_rows
from celeriac.db.workflows import questions
from celeriac.db.workflows.items import NewItem
from celeriac.domain.approvals import MAX_EXPIRES_SECONDS, OnExpiry, Question, QuestionKind
from celeriac.domain.errors import InvalidInputError
from celeriac.domain.expressions.templates import render
from celeriac.domain.workflows.model import NoAnswer, Step
from celeriac.domain.workflows.records import StepRun, WorkflowRun
from celeriac.domain.workflows.states import StepStatus, StepTransition
from celeriac.kit.json_types import JsonObject, JsonValue, checked
from celeriac.kit.text import clip

APPROVAL_DENIED = "approval_denied"
"""The error code of a step with `on_denial: fail` that was denied."""

_SHOWN = 300
"""Characters of a person's note in the error of the step."""

_ON_EXPIRY = {NoAnswer.SKIP: OnExpiry.DENY, NoAnswer.FAIL: OnExpiry.FAIL}


def ask(
    connection: Connection, run: WorkflowRun, step: StepRun, spec: Step, scope: Mapping[str, Any]
) -> NewItem:
    """Store the question of a step of a locked run; return the step's item.

    Raises CeleriacError for a `show` that has no value or can't be stored.
    """
    question = question_of(step.step, spec, scope)
    approval_id = questions.ask(connection, run, step.step_no, question)
    return NewItem(0, approval_id=approval_id, status=StepStatus.RUNNING)


def question_of(step: str, spec: Step, scope: Mapping[str, Any]) -> Question:
    """Return the question of a step. Raises CeleriacError for a `show` as `ask` does."""
    return Question(
        key=step,
        kind=QuestionKind.STEP,
        title=spec.target,
        arguments=_shown(render(spec.show, scope)),
        expires_seconds=MAX_EXPIRES_SECONDS if spec.expires is None else spec.expires,
        on_expiry=_ON_EXPIRY[spec.on_expiry],
    )


def _shown(value: JsonValue) -> dict[str, JsonValue]:
    """Return what a person is shown as an object, as the arguments of other questions are."""
    try:
        checked(value)
    except TypeError as error:
        raise InvalidInputError(f"show can't be shown: {error}.", field="show") from error
    if value is None:
        return {}
    return dict(value) if isinstance(value, dict) else {"show": value}


def settled_by(
    connection: Connection, step: StepRun, spec: Step
) -> tuple[StepTransition, str | None, str | None]:
    """Return how an approval step settles whose question is closed, with the error if it fails."""
    found = item_rows.items(
        connection, step.run_id, step.step_no, step.round, after=-1, limit=1, results=True
    )
    if not found:  # the run was stopped before the question was asked
        return StepTransition.CANCEL, None, None
    item = found[0]
    match item.status:
        case StepStatus.COMPLETED | StepStatus.DENIED:
            return answered(spec, item.result)
        case StepStatus.CANCELLED:
            return StepTransition.CANCEL, None, None
    return StepTransition.FAIL, item.error_code, item.error_message


def answered(spec: Step, answer: JsonValue) -> tuple[StepTransition, str | None, str | None]:
    """Return how an approval step settles with an answer, with the error if it fails."""
    assert isinstance(answer, dict), "the statement that closes a question stores it"
    if answer["approved"] is True:
        return StepTransition.COMPLETE, None, None
    if spec.on_denial is NoAnswer.SKIP or answer["expired"] is True:
        return StepTransition.DENY, None, None
    return StepTransition.FAIL, APPROVAL_DENIED, _denial(answer)


def _denial(answer: JsonObject) -> str:
    note = answer["note"]
    return f"{answer['by']} denied it" + (f": {clip(str(note), _SHOWN)}" if note else ".")
