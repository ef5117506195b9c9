"""Approvals: questions of agents and of workflow runs, answers, and the validation of answers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from uuid import UUID

from celeriac.domain.budget_kinds import BudgetScope
from celeriac.domain.errors import AnswerInvalidError, InvalidInputError, TooLargeError
from celeriac.domain.schemas import Fault, check_schema
from celeriac.kit.json_types import MAX_DEPTH, JsonObject, JsonValue, storable

MAX_KEY = 500
MAX_EXPIRES_SECONDS = 31_536_000


class QuestionKind(StrEnum):
    """The kind of a question."""

    TOOL = "tool"
    """May this tool be called with these arguments?"""
    QUESTION = "question"
    """A free question; the answer is a text."""
    FORM = "form"
    """A question whose answer fits a JSON schema."""
    BUDGET = "budget"
    """A budget is spent; may the execution continue?"""
    STEP = "step"
    """An approval step of a workflow run: may the steps that need it run?"""


class ApprovalStatus(StrEnum):
    """The status of a question."""

    OPEN = "open"
    ANSWERED = "answered"
    EXPIRED = "expired"
    """Nobody answered in time; `on_expiry` determines the answer."""
    WITHDRAWN = "withdrawn"
    """The execution ended, or the step of a run was stopped, before an answer."""


class OnExpiry(StrEnum):
    """What happens when nobody answers a question in time."""

    DENY = "deny"
    """The answer is no, and the agent continues."""
    APPROVE = "approve"
    """The answer is yes."""
    FAIL = "fail"
    """The execution, or the step of a run, fails with `approval_expired`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A question before it is stored; `key` is unique within its execution.

    Asking again under the same key creates no second question.
    """

    key: str
    kind: QuestionKind
    title: str
    """The question, as a sentence that a person can answer."""
    tool: str | None = None
    arguments: JsonObject = field(default_factory=dict)
    schema: JsonObject | None = None
    """JSON schema of the answer's value, for a form."""
    expires_seconds: float = 86_400.0
    on_expiry: OnExpiry = OnExpiry.DENY
    default: JsonValue = None
    """The answer's value if the expiry approves."""

    def __post_init__(self) -> None:
        """Raise InvalidInputError, in the agent, for a question that can't be answered."""
        if not 0 < len(self.key) <= MAX_KEY:
            raise InvalidInputError(
                f"The key of a question has 1 to {MAX_KEY} characters.", field="key"
            )
        if not 0 < self.expires_seconds <= MAX_EXPIRES_SECONDS:
            raise InvalidInputError(
                f"expires_seconds must be between 0 and {MAX_EXPIRES_SECONDS}.",
                field="expires_seconds",
            )
        if self.kind is QuestionKind.FORM and self.schema is None:
            raise InvalidInputError("A form needs a JSON schema of its value.", field="schema")
        if self.schema is not None:
            check_schema(self.schema, field="schema")


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer of a person or of an expiry."""

    approved: bool
    value: JsonValue = None
    """The text or the form's value; for a tool, the arguments if the person changed them."""
    note: str = ""
    by: str = ""


@dataclass(frozen=True, slots=True)
class Approval:
    """A stored question with its answer, as read by the API.

    It belongs to an execution of a task, or to a step of a workflow run.
    """

    id: UUID
    execution_id: UUID | None
    task_id: UUID | None
    task_name: str | None
    run_id: UUID | None
    workflow_id: UUID | None
    workflow_name: str | None
    step_no: int | None
    workspace_id: UUID
    owner_id: UUID
    attempt: int | None
    key: str
    """Unique within its execution; of a run, the id of the step."""
    kind: QuestionKind
    title: str
    tool: str | None
    arguments: JsonObject
    schema: JsonObject | None
    status: ApprovalStatus
    on_expiry: OnExpiry
    default: JsonValue
    created_at: datetime
    expires_at: datetime
    approved: bool | None
    value: JsonValue
    note: str | None
    answered_at: datetime | None
    answered_by: str | None
    links_revoked: int
    """How often the links to it were revoked."""
    expired: bool
    """Whether it has expired by the database's clock, even if `status` is still open."""

    @property
    def asker(self) -> UUID:
        """The execution or the run in whose log it is."""
        asker = self.run_id or self.execution_id
        assert asker is not None, "a constraint of the table"
        return asker

    @property
    def step(self) -> str | None:
        """The id of the step of a run that asks."""
        return None if self.run_id is None else self.key

    @property
    def needs_admin(self) -> bool:
        """Whether only an administrator may answer: they set budgets of users and workspaces."""
        return self.kind is QuestionKind.BUDGET and self.arguments.get("scope") in _LIMITS


_LIMITS = (BudgetScope.USER, BudgetScope.WORKSPACE)


@dataclass(frozen=True, slots=True, kw_only=True)
class ApprovalFilter:
    """The questions to list; empty and None mean all."""

    workspace_id: UUID | None = None
    statuses: Sequence[ApprovalStatus] = ()
    execution_id: UUID | None = None
    run_id: UUID | None = None


MAX_NOTE = 10_000
MAX_VALUE_BYTES = 1_000_000


Validate = Callable[[JsonObject, JsonValue], Sequence[Fault]]
"""Returns the faults of a value under a JSON schema."""


def check_answer(
    kind: QuestionKind, schema: JsonObject | None, answer: Answer, validate: Validate
) -> None:
    """Raise AnswerInvalidError naming the field and the cure if an answer doesn't fit.

    A denial has no value, nor has the answer to a step of a workflow. An approved tool call may
    have other arguments, an object. A free question needs a text. A form's value, and any other
    value with a schema, must fit that. Raises TooLargeError.
    """
    if len(answer.note) > MAX_NOTE:
        raise TooLargeError(f"The note has over {MAX_NOTE:,} characters.", field="note")
    value = answer.value
    if value is not None and len(_encoded(value)) > MAX_VALUE_BYTES:
        raise TooLargeError(f"The value has over {MAX_VALUE_BYTES:,} bytes.", field="value")
    if not answer.approved:
        if value is not None:
            raise AnswerInvalidError(
                "A denial has no value; say why in `note`, or approve.", field="value"
            )
        return
    match kind:
        case QuestionKind.TOOL if not (value is None or isinstance(value, dict)):
            raise AnswerInvalidError(
                "The value of an approved tool call is null, or an object of other arguments.",
                field="value",
            )
        case QuestionKind.STEP if value is not None:
            raise AnswerInvalidError(
                "The answer to a step of a workflow has no value; write what you mean in `note`.",
                field="value",
            )
        case QuestionKind.QUESTION if not (isinstance(value, str) and value.strip()):
            raise AnswerInvalidError("The question needs a text as its value.", field="value")
    if schema is not None and kind is not QuestionKind.TOOL:
        _check_value(validate(schema, value))


def _encoded(value: JsonValue) -> str:
    try:
        return storable(value, depth=MAX_DEPTH)
    except TypeError as error:
        raise AnswerInvalidError(f"The value can't be stored: {error}.", field="value") from error


def _check_value(found: Sequence[Fault]) -> None:
    if found:
        said = "; ".join(f"{_field(fault.place)}: {fault.message}" for fault in found)
        raise AnswerInvalidError(
            f"The value doesn't fit the form: {said}.",
            field=_field(found[0].place),
            faults=[{"field": _field(fault.place), "message": fault.message} for fault in found],
        )


def _field(place: str) -> str:
    return f"value.{place}" if place else "value"
