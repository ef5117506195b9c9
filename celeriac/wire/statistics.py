"""Answers about executions that ended in a window of time."""

from datetime import datetime
from uuid import UUID

from pydantic import Field

from celeriac.wire.base import AT, LATER, Dollars, Wire


class Durations(Wire):
    """Durations in seconds; null without any. Percentiles are off by at most 8.7 %."""

    average: float | None = Field(examples=[2.41])
    p50: float | None = Field(examples=[1.9])
    p95: float | None = Field(examples=[6.2])
    p99: float | None = Field(examples=[9.1])


class Ended(Wire):
    """Executions that ended in the window."""

    completed: int = Field(examples=[118])
    failed: int = Field(examples=[2])
    cancelled: int = Field(examples=[1])
    completed_per_minute: float = Field(examples=[1.97])
    failed_per_minute: float = Field(examples=[0.03])
    success_rate: float | None = Field(
        description="completed / (completed + failed); null without any.", examples=[0.983]
    )
    retries: int
    lost_attempts: int = Field(description="Attempts that were lost with their worker.")
    model_calls: int
    input_tokens: int
    output_tokens: int
    cached_tokens: int = Field(
        default=0, description="Of the input tokens, those that the provider had in its cache."
    )
    denied_tools: int = Field(
        default=0, description="Calls of tools that a rule or a person did not allow."
    )
    no_ops: int = Field(
        default=0, description="Those that completed and had done nothing (flag no_op)."
    )
    cost: Dollars = Field(description="US dollars.", examples=["0.3102"])
    wait: Durations = Field(
        description="From when they could begin until their first attempt began."
    )
    run: Durations = Field(description="From there to their end, with retries and waits.")


class EndedOfTask(Ended):
    """Executions of a task that ended in the window."""

    task_id: UUID
    task: str | None = Field(description="Its name; null once it is gone.", examples=["summarise"])
    workspace: str | None = Field(examples=["ada"])


class EndedOfQueue(Ended):
    """Executions of a queue that ended in the window."""

    queue: str = Field(examples=["task_execution"])


class EndedInAll(Wire):
    """Executions that have ever ended."""

    completed: int = Field(examples=[81_220])
    failed: int = Field(examples=[412])
    cancelled: int = Field(examples=[96])


class Statistics(Ended):
    """What ended in a window of time, and of all time."""

    since: datetime = Field(
        description="The begin of the window: a whole minute, hour or day.", examples=[AT]
    )
    until: datetime = Field(examples=[LATER])
    behind_seconds: float | None = Field(
        description="Age of the oldest end that is not counted yet; null if all are.",
        examples=[1.2],
    )
    tasks: list[EndedOfTask] = Field(description="The most ends first.")
    queues: list[EndedOfQueue] = Field(description="The most ends first.")
    all_time: EndedInAll
