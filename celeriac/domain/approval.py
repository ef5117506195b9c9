"""Approvals: questions that agents ask people, and the answers."""

from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

from celeriac.domain.agent.tools import OnExpiry
from celeriac.domain.approval_states import ApprovalStatus, QuestionKind
from celeriac.domain.errors import InvalidInputError
from celeriac.domain.schema import check_schema
from celeriac.kit.jsontypes import JsonObject, JsonValue

__all__ = [
    "MAX_EXPIRES_SECONDS",
    "MAX_KEY",
    "Answer",
    "Approval",
    "ApprovalStatus",
    "Question",
    "QuestionKind",
]

MAX_KEY = 500
MAX_EXPIRES_SECONDS = 31_536_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A question before it is stored; `key` is unique within its execution.

    Asked again under the same key, it is the same question: no second row, no second answer.
    """

    key: str
    kind: QuestionKind
    title: str
    """What is asked, in a sentence that a person can answer."""
    tool: str | None = None
    arguments: JsonObject = field(default_factory=dict)
    schema: JsonObject | None = None
    """JSON schema of the answer's value, for a form."""
    expires_seconds: float = 86_400.0
    on_expiry: OnExpiry = OnExpiry.DENY
    default: JsonValue = None
    """The value of the answer that an expiry gives, where it approves."""

    def __post_init__(self) -> None:
        """Refuse, in the agent that asks, what nobody could answer. Raises InvalidInputError."""
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
    """What a person, or an expiry, answered."""

    approved: bool
    value: JsonValue = None
    """The text or the form's value; for a tool, its arguments where the person changed them."""
    note: str = ""
    by: str = ""


@dataclass(frozen=True, slots=True)
class Approval:
    """A stored question with its answer, as read by the API."""

    id: UUID
    execution_id: UUID
    task_id: UUID
    task_name: str
    owner_id: UUID
    attempt: int
    key: str
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
    """Whether its time is over, by the database's clock, even if nobody has written that yet."""

    @property
    def needs_admin(self) -> bool:
        """Whether only an admin may answer: what admins allowed a user to spend is at stake."""
        return self.kind is QuestionKind.BUDGET and self.arguments.get("scope") == "user"
