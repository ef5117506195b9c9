"""Requests that create work."""

from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any, ClassVar, Self
from uuid import UUID

from pydantic import ConfigDict, Field, model_validator

from celeriac.api.schemas.moments import Moment
from celeriac.domain.agent import Strict
from celeriac.domain.budget import Budget
from celeriac.domain.options import RunOptions
from celeriac.domain.task import PriorityLabel, QueueName

_LONGEST_DELAY = 366 * 86_400


class Mode(StrEnum):
    """Whether the answer comes at once or when the execution has ended."""

    ASYNC = "async"
    SYNC = "sync"


class When(Strict):
    """When, where and how urgently to run."""

    BULK: ClassVar[bool] = True

    priority: PriorityLabel | None = Field(default=None, description="Default: the task's own.")
    queue: QueueName | None = Field(default=None, description="Default: the task's own.")
    delay_seconds: float = Field(
        default=0.0, ge=0, le=_LONGEST_DELAY, description="Start no earlier than in so long."
    )
    available_at: Moment | None = Field(
        default=None,
        description="Start no earlier than at this time (with a zone); instead of delay_seconds.",
    )

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if self.available_at is not None and self.delay_seconds:
            raise ValueError("give either delay_seconds or available_at, not both")
        return self

    def seconds_until_due(self) -> float:
        """Return how long who waits for the result waits for the start, by this machine's clock."""
        if self.available_at is None:
            return self.delay_seconds
        wait = (self.available_at - datetime.now(UTC)).total_seconds()
        return min(max(wait, 0.0), _LONGEST_DELAY)


class Execute(When):
    """What to run."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"variables": {"text": "Celeriac is a root vegetable."}}]}
    )

    variables: dict[str, Any] = Field(
        default_factory=dict, description="They must fit the task's variables_schema."
    )
    execution_mode: Annotated[Mode, Field(strict=False)] | None = Field(
        default=None,
        description="async (as a rule the default) answers at once, sync when it has ended.",
    )
    session_id: Annotated[UUID, Field(strict=False)] | None = Field(
        default=None,
        description="An earlier session, of the same kind of agent, to go on with.",
    )
    fork_session: bool = Field(
        default=False,
        description="Go on with a copy of the session, which stays as it is; also while it is in "
        "use.",
    )
    budget: Budget | None = Field(
        default=None, description="For this execution, instead of its task's."
    )
    record: bool = Field(default=False, description="Save its model traffic as a cassette.")
    cassette_id: Annotated[UUID, Field(strict=False)] | None = Field(
        default=None,
        description="Answer its model requests from this cassette instead of from providers.",
    )

    @model_validator(mode="after")
    def _forks_something(self) -> Self:
        if self.fork_session and self.session_id is None:
            raise ValueError("fork_session needs the session_id of what to fork")
        return self

    def options(self) -> RunOptions:
        """Return what the caller wishes for this run."""
        return RunOptions(
            fork_session=self.fork_session,
            budget=self.budget,
            record=self.record,
            cassette_id=self.cassette_id,
        )


class ExecuteBatch(When):
    """Many runs of one task, taken on all or none."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"items": [{"text": "One."}, {"text": "Two."}]}]}
    )

    items: list[dict[str, Any]] = Field(
        min_length=1, fail_fast=True, description="The variables of each execution."
    )
