"""A RunContext that records the calls of a runner, and jobs for runners."""

import asyncio
import time
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

from celeriac.domain.agents import AgentSpec, CommandAgent, PythonAgent
from celeriac.domain.approvals import Answer, Question
from celeriac.domain.executions.events import EventType
from celeriac.domain.executions.model import Completed, Parked
from celeriac.domain.tasks import Limits
from celeriac.domain.usage import CallEstimate, Reservation
from celeriac.kit.json_types import JsonObject
from celeriac.services.ports import Job, Runner
from celeriac.testing.context import MemoryRunContext

FUNCTIONS = "tests.support.agent_functions"


class RecordingContext(MemoryRunContext):
    """Stands in for an attempt of the execution `e-1`; `hard_seconds` from now is the deadline."""

    def __init__(self, workdir: Path, *, hard_seconds: float = 60.0) -> None:
        super().__init__(workdir, hard_seconds=hard_seconds, execution_id="e-1")
        self.correlation = {"execution_id": "e-1", "request_id": "r-1"}

    def logged(self) -> list[JsonObject]:
        """The log lines among the events."""
        return [data for kind, data in self.events if kind is EventType.LOG]


def events_of(context: RecordingContext, kind: EventType) -> list[JsonObject]:
    """The data of the events of a kind."""
    return [data for each, data in context.events if each is kind]


class LateContext(RecordingContext):
    """Answers what people are asked after the hard limit would have passed, and budgets likewise.

    The attempt's time stands still meanwhile, as in production. `stands_still` false lets it go on.
    """

    def __init__(self, workdir: Path, limits: Limits, *, stands_still: bool = True) -> None:
        super().__init__(workdir)
        self.time_limits.begin(limits)
        self._stands_still = stands_still

    async def run(self, runner: Runner, job: Job) -> Completed | Parked:
        """Run as the pipeline does: the soft limit is a cancellation."""
        async with self.time_limits.soft():
            return await runner.run(job, self)

    async def ask(self, question: Question) -> Answer:
        self.questions.append(question)
        await self._be_late()
        return Answer(approved=True, value=question.key)

    async def admit(self, call: CallEstimate) -> Reservation | None:
        if not self.planned:
            await self._be_late()
        return await super().admit(call)

    async def _be_late(self) -> None:
        late = time.monotonic() + self.time_limits.hard_left + 0.2
        go_on = self.time_limits.pause() if self._stands_still else lambda: None
        try:
            await asyncio.sleep(late - time.monotonic())
        finally:
            go_on()


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
    agent = PythonAgent(function=path, environment=environment)
    return _job(agent, limits=limits, output_schema=output_schema, variables=variables)


def command_job(
    command: str,
    *arguments: str,
    prompt: str = "Do it.",
    limits: Limits | None = None,
    output_schema: JsonObject | None = None,
    environment: tuple[str, ...] = (),
    **variables: Any,
) -> Job:
    """Return a job for a program of the runner's commands."""
    agent = CommandAgent(command=command, arguments=arguments, environment=environment)
    job = _job(agent, limits=limits, output_schema=output_schema, variables=variables)
    return replace(job, prompt=prompt)


def _job(
    agent: AgentSpec,
    *,
    limits: Limits | None,
    output_schema: JsonObject | None,
    variables: JsonObject,
) -> Job:
    return Job(
        execution_id=uuid4(),
        attempt=1,
        task_name="test",
        agent_name="tester",
        agent=agent,
        prompt="Do it.",
        variables=variables,
        output_schema=output_schema,
        limits=limits or Limits(soft_seconds=50, hard_seconds=60, memory_mb=256),
    )
