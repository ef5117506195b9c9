"""Bodies of requests that create, cancel or retry executions."""

from collections.abc import Sequence
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any, ClassVar, Literal, Self
from uuid import UUID

from pydantic import (
    AfterValidator,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationInfo,
    field_validator,
    model_validator,
)

from celeriac.api.core.parameters import MAX_PAGE, Reference, Timestamp
from celeriac.domain.base import Label, Strict
from celeriac.domain.budgets import Budget
from celeriac.domain.executions.flags import Flag
from celeriac.domain.executions.options import RunOptions
from celeriac.domain.executions.search import LONGEST_TEXT
from celeriac.domain.executions.states import Status, WaitingFor
from celeriac.domain.executions.triggers import TriggerType
from celeriac.domain.labels import MOST_LABELS, LabelKey, LabelValue, parse_label
from celeriac.domain.repositories import RepositoryChoice
from celeriac.domain.tasks import LONGEST_EXPIRY, PriorityLabel, QueueName

_LONGEST_DELAY = 366 * 86_400


class ResponseMode(StrEnum):
    """Whether the answer comes at once or when the execution has ended."""

    ASYNC = "async"
    SYNC = "sync"


class NewQueue(Strict):
    """The queue that an execution is moved to."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"to_queue": "enrichment"}]})

    to_queue: QueueName = Field(description="The name of a queue.", examples=["enrichment"])


class NewPriority(Strict):
    """The priority that an execution gets."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"priority": "high"}]})

    priority: PriorityLabel = Field(description="low, normal, high or critical.", examples=["high"])


class NewLabels(Strict):
    """Labels to set, and with null those to remove; all others stay."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"labels": {"customer": "acme", "draft": None}}]}
    )

    labels: dict[LabelKey, LabelValue | None] = Field(min_length=1, max_length=2 * MOST_LABELS)


class StartOptions(Strict):
    """Start and expiry, queue and priority."""

    BULK: ClassVar[bool] = True

    priority: PriorityLabel | None = Field(default=None, description="Default: the task's own.")
    queue: QueueName | None = Field(default=None, description="Default: the task's own.")
    delay_seconds: float = Field(
        default=0.0, ge=0, le=_LONGEST_DELAY, description="Start no earlier than after this time."
    )
    available_at: Timestamp | None = Field(
        default=None,
        description="Start no earlier than at this time (with a zone); instead of delay_seconds.",
    )
    expires_in: float | None = Field(
        default=None,
        gt=0,
        le=LONGEST_EXPIRY,
        description="Cancel it, with `expired`, if it has not begun after so many seconds. "
        "Default: those of the task, if it has any.",
    )
    expires_at: Timestamp | None = Field(
        default=None,
        description="Cancel it, with `expired`, if it has not begun by this time (with a zone); "
        "instead of expires_in.",
    )
    callback_url: str | None = Field(
        default=None,
        min_length=1,
        max_length=2_000,
        description="URL to which the end of each execution is sent, signed as requests to "
        "webhooks (docs/webhooks.md). `https://…`, on the public internet, unless an operator of "
        "the installation allows its host.",
    )

    labels: Annotated[dict[LabelKey, LabelValue], Field(max_length=MOST_LABELS)] = Field(
        default_factory=dict,
        description="Names and values to find it by; limits by key may use them.",
        examples=[{"customer": "acme"}],
    )
    repository: RepositoryChoice | None = Field(
        default=None,
        description="git, ref or path instead of those of its task's repository, as far as the "
        "task leaves them open.",
        examples=[{"ref": "release-2"}],
    )

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if self.available_at is not None and self.delay_seconds:
            raise ValueError("give either delay_seconds or available_at, not both")
        if self.expires_at is not None and self.expires_in is not None:
            raise ValueError("give either expires_in or expires_at, not both")
        return self

    @model_validator(mode="after")
    def _begins_before_it_expires(self) -> Self:
        if self.expires_in is not None and self.delay_seconds >= self.expires_in:
            raise ValueError(
                "expires_in must be more than delay_seconds: it could never begin in time"
            )
        at, by = self.available_at, self.expires_at
        if at is not None and by is not None and at >= by:
            raise ValueError("expires_at must be after available_at: it could never begin in time")
        return self

    def seconds_until_due(self) -> float:
        """Return the seconds until the start, by this machine's clock."""
        if self.available_at is None:
            return self.delay_seconds
        wait = (self.available_at - datetime.now(UTC)).total_seconds()
        return min(max(wait, 0.0), _LONGEST_DELAY)


class Execute(StartOptions):
    """One run of a task."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"variables": {"text": "Celeriac is a root vegetable."}}]}
    )

    variables: dict[str, Any] = Field(
        default_factory=dict, description="They must fit the task's variables_schema."
    )
    execution_mode: Annotated[ResponseMode, Field(strict=False)] | None = Field(
        default=None,
        description="async answers at once, sync when the execution has ended. The default is a "
        "setting of the server, usually async.",
    )
    session_id: Annotated[UUID, Field(strict=False)] | None = Field(
        default=None, description="An earlier session, of the same kind of agent, to continue."
    )
    fork_session: bool = Field(
        default=False,
        description="Continue a copy of the session, also while the session is in use.",
    )
    budget: Budget | None = Field(
        default=None, description="For this execution, instead of its task's."
    )
    record: bool = Field(default=False, description="Save its model traffic as a cassette.")
    cassette_id: Annotated[UUID, Field(strict=False)] | None = Field(
        default=None, description="Replay its model requests from this cassette."
    )

    @model_validator(mode="after")
    def _forks_something(self) -> Self:
        if self.fork_session and self.session_id is None:
            raise ValueError("fork_session needs the session_id of the session to fork")
        return self

    def options(self) -> RunOptions:
        """Return the options of this run."""
        return RunOptions(
            fork_session=self.fork_session,
            budget=self.budget,
            repository=self.repository,
            record=self.record,
            cassette_id=self.cassette_id,
            callback_url=self.callback_url,
        )


class ExecuteBatch(StartOptions):
    """Many runs of one task, accepted all or none."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"items": [{"text": "One."}, {"text": "Two."}]}]}
    )

    items: list[dict[str, Any]] = Field(
        min_length=1, fail_fast=True, description="The variables of each execution."
    )
    repositories: list[RepositoryChoice | None] | None = Field(
        default=None,
        min_length=1,
        fail_fast=True,
        description="One for each of the items, in their order: what it chooses of its repository, "
        "besides `repository`, which is for all; null for nothing.",
        examples=[[{"ref": "release-1"}, {"ref": "release-2"}]],
    )

    @field_validator("repositories")
    @classmethod
    def _one_for_each(
        cls, given: list[RepositoryChoice | None] | None, info: ValidationInfo
    ) -> list[RepositoryChoice | None] | None:
        items = info.data.get("items")
        if given is not None and items is not None and len(given) != len(items):
            raise ValueError(
                f"must have one entry, or null, for each of the items: {len(items)}, "
                f"not {len(given)}"
            )
        return given


MAX_IDS = 100
"""The most ids that one request may name."""

MAX_CHANGED = 500
"""The most executions that one request may change."""

ErrorCode = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,99}$")]
"""A stable code of an error, such as `agent_failed`."""

_Id = Annotated[UUID, Field(strict=False)]


def _is_label(text: str) -> str:
    parse_label(text)
    return text


_Label = Annotated[str, AfterValidator(_is_label)]


class Conditions(Strict):
    """What executions must have; all given fields must match."""

    id: list[_Id] = Field(
        default=[],
        min_length=1,
        max_length=MAX_IDS,
        description="Only these executions. One or several.",
    )
    status: Sequence[str] = ()
    task: Reference | None = Field(default=None, description="A task's id, or your task's name.")
    agent: Reference | None = Field(
        default=None, description="An agent's id, or your agent's name; any of its versions."
    )
    batch_id: _Id | None = Field(default=None, description="Of this batch.")
    origin_id: _Id | None = Field(default=None, description="Retries of this execution.")
    parent_id: _Id | None = Field(default=None, description="Started by this execution.")
    session_id: _Id | None = Field(default=None, description="That used this session.")
    trigger_type: Annotated[TriggerType, Field(strict=False)] | None = Field(
        default=None, description="Started in this way."
    )
    waiting_for: Annotated[WaitingFor, Field(strict=False)] | None = Field(
        default=None, description="That wait for this."
    )
    error_code: ErrorCode | None = Field(default=None, description="The code of the last error.")
    flag: Annotated[Flag, Field(strict=False)] | None = Field(
        default=None, description="That have this flag."
    )
    failure_group: _Id | None = Field(default=None, description="Failed, of this group.")
    label: list[_Label] = Field(
        default_factory=list,
        min_length=1,
        max_length=MOST_LABELS,
        description="KEY:VALUE. That have this label; with several, all of them.",
        examples=[["customer:acme"]],
    )
    without_label: list[_Label] = Field(
        default_factory=list,
        min_length=1,
        max_length=MOST_LABELS,
        description="KEY:VALUE. That don't have this label, nor any of several.",
        examples=[["priority:low"]],
    )
    created_after: Timestamp | None = Field(
        default=None, description="Created at or after this time."
    )
    created_before: Timestamp | None = Field(default=None, description="Created before this time.")


class Criteria(Conditions):
    """The same, and those of a saved view."""

    view: Reference | None = Field(
        default=None,
        description="A saved view's name or id: its filter must match, too. Other fields narrow it "
        "and can't widen it.",
    )


LONGEST_WITHIN = 366 * 86_400


class ViewFilter(Conditions):
    """Which executions a saved view selects; all given fields must match."""

    status: list[Annotated[Status, Field(strict=False)]] = Field(
        default=[], min_length=1, description="One or several."
    )
    created_within: int | None = Field(
        default=None,
        ge=1,
        le=LONGEST_WITHIN,
        description="Created in so many seconds before the view is used.",
        examples=[86_400],
    )


class Selection(Criteria):
    """Selects executions, page by page: those that match all given fields."""

    cursor: Annotated[str, StringConstraints(max_length=200)] | None = Field(
        default=None, description="`next_cursor` of the page or request before, with this filter."
    )


class ListFilter(Selection):
    """Which executions to list or export, and which of their fields."""

    status: list[Annotated[Status, Field(strict=False)]] = Field(
        default=[], description="One or several."
    )
    include: list[Literal["variables", "result", "error_details"]] = Field(
        default=[],
        description="Also return this field, which may be large. One or several.",
    )


class ListMany(ListFilter):
    """Which executions to list, and which of their fields."""

    limit: Annotated[int, Field(strict=False)] = Field(
        default=50, ge=1, le=MAX_PAGE, description="Items on a page."
    )


SearchText = Annotated[Label, StringConstraints(min_length=1, max_length=LONGEST_TEXT)]


class SearchMany(Selection):
    """A text to look for, and in which executions."""

    text: SearchText = Field(
        description="Printable characters, in upper or lower case: of the task's name, variables, "
        "result, labels, error message or note of the progress.",
        examples=["order A-1734"],
    )
    status: list[Annotated[Status, Field(strict=False)]] = Field(
        default=[], description="One or several."
    )
    limit: Annotated[int, Field(strict=False)] = Field(
        default=50, ge=1, le=MAX_PAGE, description="The most finds of one answer."
    )


class ChangeMany(Selection):
    """Which executions to change."""

    limit: int = Field(
        ge=1, le=MAX_CHANGED, description="The most executions that this request changes."
    )


class ChangeLive(ChangeMany):
    """Which executions to change of those that have not ended."""

    status: list[Literal["pending", "queued", "running", "waiting"]] = Field(
        default=[], min_length=1, description="One or several; all of these if left out."
    )
    queue: QueueName | None = Field(default=None, description="In this queue.")


class CancelMany(ChangeLive):
    """Which executions to cancel. Only those that have not ended match."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"task": "summarise", "status": ["pending", "queued"], "limit": 500}]
        }
    )


class PrioritiseMany(ChangeLive, NewPriority):
    """Which executions get another priority. Only those that have not ended match."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"task": "summarise", "priority": "high", "limit": 500}]}
    )


class MoveMany(ChangeLive, NewQueue):
    """Which executions to move. Only those that have not ended match."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"queue": "enrichment", "to_queue": "spare", "limit": 500}]}
    )


_Ended = Literal["completed", "failed", "cancelled"]


class RetryMany(ChangeMany):
    """Which executions to retry. Only those that have ended match."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"task": "summarise", "created_after": "2026-11-22T08:00:00Z",
                          "limit": 500}]
        }
    )  # fmt: skip

    status: list[_Ended] = Field(default=["failed"], min_length=1, description="One or several.")
