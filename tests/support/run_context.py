"""A RunContext that remembers what a runner told it."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from uuid import uuid4

from celeriac.domain.agent import PythonAgent
from celeriac.domain.events import EventType
from celeriac.domain.task import Limits
from celeriac.domain.usage import ModelCall
from celeriac.kit.jsontypes import JsonObject
from celeriac.services.ports import Job

FUNCTIONS = "tests.support.agent_functions"


class RecordingContext:
    """Keeps everything in lists; `hard_seconds` from now is the deadline."""

    def __init__(self, workdir: Path, *, hard_seconds: float = 60.0) -> None:
        self.workdir = workdir
        self.deadline = time.monotonic() + hard_seconds
        self.correlation: Mapping[str, str] = {"execution_id": "e-1", "request_id": "r-1"}
        self.events: list[tuple[EventType, JsonObject]] = []
        self.deltas: list[JsonObject] = []
        self.calls: list[ModelCall] = []
        self.steps: list[tuple[float, float | None, str]] = []

    def idempotency_key(self, step: str) -> str:
        return f"e-1:{step}"

    async def emit(self, kind: EventType, data: JsonObject) -> None:
        self.events.append((kind, data))

    def delta(self, data: JsonObject) -> None:
        self.deltas.append(data)

    async def charge(self, call: ModelCall) -> None:
        self.calls.append(call)

    async def progress(self, done: float, total: float | None = None, note: str = "") -> None:
        self.steps.append((done, total, note))

    def logged(self) -> list[JsonObject]:
        """The log lines among the events."""
        return [data for kind, data in self.events if kind is EventType.LOG]


def python_job(
    function: str,
    *,
    limits: Limits | None = None,
    output_schema: JsonObject | None = None,
    environment: tuple[str, ...] = (),
    **variables: Any,
) -> Job:
    """Return a job for a function of `tests.support.agent_functions`, or any `module:function`."""
    path = function if ":" in function else f"{FUNCTIONS}:{function}"
    return Job(
        execution_id=uuid4(),
        attempt=1,
        task_name="test",
        agent_name="tester",
        agent=PythonAgent(function=path, environment=environment),
        prompt="Do it.",
        variables=variables,
        output_schema=output_schema,
        limits=limits or Limits(soft_seconds=50, hard_seconds=60, memory_mb=256),
    )
