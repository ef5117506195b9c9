"""Requests that create work."""

from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any, Self

from pydantic import ConfigDict, Field, model_validator

from celeriac.api.schemas.moments import Moment
from celeriac.domain.agent import Strict
from celeriac.domain.task import PriorityLabel, QueueName

_LONGEST_DELAY = 366 * 86_400


class Mode(StrEnum):
    """Whether the answer comes at once or when the execution has ended."""

    ASYNC = "async"
    SYNC = "sync"


class When(Strict):
    """When, where and how urgently to run."""

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

    def delay(self) -> float:
        """Return the seconds to wait from now."""
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


class ExecuteBatch(When):
    """Many runs of one task, taken on all or none."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"items": [{"text": "One."}, {"text": "Two."}]}]}
    )

    items: list[dict[str, Any]] = Field(
        min_length=1, description="The variables of each execution."
    )
