"""Runs an agent in the test's process; a cassette answers its model requests."""

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

from celeriac.domain.agents import AgentSpec
from celeriac.domain.approvals import Answer, Question
from celeriac.domain.cassettes import Cassette, Header, dump
from celeriac.domain.errors import (
    CeleriacError,
    ExecutionError,
    HardTimeLimitError,
    InvalidInputError,
)
from celeriac.domain.executions.events import EventType
from celeriac.domain.executions.model import Completed, MustWaitError, Parked
from celeriac.domain.executions.options import RunOptions
from celeriac.domain.executions.states import Status
from celeriac.domain.executions.steps import Child
from celeriac.domain.prompts import compiled
from celeriac.domain.sessions import Session, SessionStatus
from celeriac.domain.tasks import TaskSpec
from celeriac.domain.usage import ModelCall
from celeriac.kit.json_types import JsonObject, JsonValue, loads, storable
from celeriac.kit.loop import LoopThread
from celeriac.kit.threads import Threads
from celeriac.services.catalog.schemas import check_variables
from celeriac.services.ports import Job, Runner
from celeriac.testing.context import MemoryRunContext
from celeriac.testing.specs import (
    Spec,
    function_spec,
    read_agent,
    read_cassette,
    read_project,
    read_task,
)
from celeriac.wiring.core import build_runners, load_settings

_CANCEL_SECONDS = 5.0
"""How long a cancelled attempt may take to end."""
_ANSWERS = Threads("answers", 32)
"""Threads for `answer`: it blocks neither the agent's event loop nor other questions."""

Answers = Callable[[Question], Answer]
Children = Callable[[str, dict[str, Any]], Any]


@dataclass(frozen=True, slots=True)
class AgentRun:
    """The result of an agent and what it did."""

    result: JsonValue
    truncated: bool
    """Whether the model's token limit has cut the result off."""
    messages: tuple[tuple[str, str], ...]
    """Role and text of each message."""
    tool_calls: tuple[JsonObject, ...]
    """The `tool_call` events."""
    calls: tuple[ModelCall, ...]
    questions: tuple[Question, ...]
    """The questions that the agent asked a person."""


def run_agent(
    agent: Spec,
    task: Spec,
    variables: JsonObject,
    cassette: str | Path | None = None,
    *,
    record: bool = False,
    answer: Answers | None = None,
    children: Children | None = None,
) -> AgentRun:
    """Run a task of an agent on a cassette; with `record`, run it on its model and write the file.

    No server is needed. A replay makes no model calls and needs no key; tools are really called. A
    recording uses the providers that the environment configures; `local` is the model server of
    `celeriac up` in CELERIAC_HOME or the current directory. Without a cassette no request to a
    model is answered. `answer` returns the answers to the agent's questions; it is called in a
    thread, and its time does not count against the task's limits. `children` gets the task and the
    variables of each execution that a durable agent starts, and returns its result; the error that
    it raises is that of the execution. Retries happen where the recording has them, without delays.
    Raises the error that the execution would fail with, CassetteMismatchError if the agent makes a
    request that was not recorded, and InvalidInputError for a wrong specification.
    """
    if record and cassette is None:
        raise InvalidInputError("Name the file to record into.", field="cassette")
    replayed = None
    if not record:
        replayed = NOTHING_RECORDED if cassette is None else read_cassette(Path(cassette))
    file = Path(cassette) if record and cassette is not None else None
    return run_replayed(
        agent, task, variables, replayed, record_to=file, answer=answer, children=children
    )


def run_replayed(
    agent: Spec,
    task: Spec,
    variables: JsonObject,
    replayed: Cassette | None,
    *,
    record_to: Path | None = None,
    answer: Answers | None = None,
    children: Children | None = None,
    step_results: Mapping[str, list[JsonValue]] | None = None,
) -> AgentRun:
    """Run a task of an agent on a cassette that was read; None records into `record_to`.

    `step_results` are what `ctx.results` gives, by the steps of a workflow. Else as `run_agent`.
    """
    with tempfile.TemporaryDirectory(prefix="celeriac-") as home:
        execution = _Execution(
            Path(home),
            read_agent(agent),
            read_task(task),
            variables,
            answer=answer,
            children=children,
            step_results=step_results or {},
        )
        try:
            return execution.run(replayed)
        finally:
            if record_to is not None:
                record_to.write_text(dump(execution.recorded), "utf-8")


def run_task(
    project: str | Path,
    name: str,
    variables: JsonObject,
    cassette: str | Path | None = None,
    *,
    record: bool = False,
    answer: Answers | None = None,
    children: Children | None = None,
) -> AgentRun:
    """Run a task of a file for `celeriac apply`, which has its agent too; else as `run_agent`.

    Raises InvalidInputError if the file has no such task, or not its agent.
    """
    agent, task = read_project(Path(project), name)
    return run_agent(
        agent, task, variables, cassette, record=record, answer=answer, children=children
    )


def run_function(
    function: Callable[..., object],
    variables: JsonObject,
    *,
    answer: Answers | None = None,
    children: Children | None = None,
) -> AgentRun:
    """Run a function that is decorated with `@celeriac.agent`; else as `run_agent`.

    The variables are checked by its type hints. Raises InvalidInputError if it is not decorated.
    """
    return run_agent(function_spec(function), {}, variables, answer=answer, children=children)


NOTHING_RECORDED = Cassette(Header(celeriac_cassette=1))


def _child_of(children: Children, task: str, variables: JsonObject) -> Child:
    """Return an execution that has ended as `children` says."""
    try:
        result = children(task, dict(variables))
    except CeleriacError as error:
        return Child(uuid4(), Status.FAILED, error_code=error.code, error_message=error.message)
    return Child(uuid4(), Status.COMPLETED, result=loads(storable(result)))


class _Context(MemoryRunContext):
    """Answers each question at once with `answer`."""

    def __init__(self, workdir: Path, hard_seconds: float, answer: Answers | None) -> None:
        super().__init__(workdir, hard_seconds=hard_seconds)
        self._answer = answer

    def answer_now(self, question: Question) -> None:
        """Store the answer to a question that has none yet."""
        if question.key in self.given:
            return
        if self._answer is None:
            raise InvalidInputError(
                f"The agent asks: {question.title} Give run_agent an `answer` that says what a "
                "person would.",
                field="answer",
            )
        self.given[question.key] = self._answer(question)

    async def ask(self, question: Question) -> Answer:
        """Get the answer in a thread; the time does not count against the attempt's limits."""
        go_on = self.time_limits.pause()
        try:
            await _ANSWERS.run(self.answer_now, question)
        finally:
            go_on()
        return await super().ask(question)


class _Execution:
    """Runs the attempts of one execution, one after the other."""

    def __init__(
        self,
        home: Path,
        agent: AgentSpec,
        task: TaskSpec,
        variables: JsonObject,
        *,
        answer: Answers | None,
        children: Children | None,
        step_results: Mapping[str, list[JsonValue]],
    ) -> None:
        check_variables(task.variables_schema, variables)
        self._home = home
        self._agent = agent
        self._task = task
        self._job = Job(
            execution_id=uuid4(),
            attempt=1,
            task_name="test",
            agent_name="test",
            agent=agent,
            prompt=compiled(task.prompt).render(variables),
            variables=variables,
            output_schema=task.output_schema,
            limits=task.limits,
        )
        self._context = _Context(home / "work", task.limits.hard_seconds, answer)
        self._context.results_of_steps = dict(step_results)
        if children is not None:
            self._context.stored_steps.run_child = partial(_child_of, children)
        self._context.recorded = Cassette(
            Header(celeriac_cassette=1, runner=agent.runner, recorded_at=datetime.now(UTC))
        )

    @property
    def recorded(self) -> Cassette:
        """The traffic recorded so far."""
        return self._context.recorded

    def run(self, replayed: Cassette | None) -> AgentRun:
        self._context.played = replayed
        options = RunOptions(record=True) if replayed is None else RunOptions(cassette_id=uuid4())
        self._job = replace(self._job, options=options)
        recorded = replayed.interactions if replayed else ()
        attempts = max((each.attempt for each in recorded), default=1)
        loop = LoopThread("agent-under-test")
        # models come from the real home; files are written to the temporary one
        found = load_settings()
        runners = build_runners(
            found.model_copy(update={"home": self._home, "crewai_venv": found.crewai})
        )
        try:
            runner = runners.get(self._agent)
            return self._run_of(self._result(loop, runner, attempts))
        finally:
            runners.close(loop)
            loop.close()

    def _result(self, loop: LoopThread, runner: Runner, attempts: int) -> Completed:
        while True:
            try:
                outcome = self._attempt(loop, runner)
            except ExecutionError as error:
                if not error.retryable or self._job.attempt >= attempts:
                    raise
            else:
                if isinstance(outcome, Completed):
                    return outcome
                for question in outcome.questions:
                    self._context.answer_now(question)
                    self._context.questions.append(question)
            self._job = replace(
                self._job, attempt=self._job.attempt + 1, session=self._session(runner)
            )

    def _attempt(self, loop: LoopThread, runner: Runner) -> Completed | Parked:
        time_limits = self._context.time_limits
        time_limits.begin(self._task.limits)
        running = loop.start(runner.run(self._job, self._context))
        if not time_limits.wait(running.wait):
            limit = self._task.limits.hard_seconds
            running.cancel(_CANCEL_SECONDS)
            running.wait(_CANCEL_SECONDS + 1)
            raise HardTimeLimitError(f"The attempt was stopped at its hard limit of {limit:g} s.")
        try:
            return running.result()
        except MustWaitError as waiting:
            return waiting.parked

    def _session(self, runner: Runner) -> Session | None:
        context, now = self._context, datetime.now(UTC)
        if context.state is None and context.external_id is None:
            return None
        return Session(
            id=context.session_id,
            workspace_id=uuid4(),
            owner_id=uuid4(),
            execution_id=self._job.execution_id,
            runner=runner.name,
            parent_id=None,
            external_id=context.external_id,
            state=context.state,
            status=SessionStatus.ACTIVE,
            error_code=None,
            error_message=None,
            created_at=now,
            updated_at=now,
            messages=context.messages,
        )

    def _run_of(self, done: Completed) -> AgentRun:
        events = self._context.events
        return AgentRun(
            result=done.result,
            truncated=done.truncated,
            messages=tuple(
                (str(data["role"]), str(data["content"]))
                for kind, data in events
                if kind is EventType.MESSAGE
            ),
            tool_calls=tuple(data for kind, data in events if kind is EventType.TOOL_CALL),
            calls=tuple(self._context.calls),
            questions=tuple(self._context.questions),
        )
