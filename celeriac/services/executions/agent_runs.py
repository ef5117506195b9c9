"""Starts the agents of claimed attempts, and turns what they did into outcomes."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Event
from typing import TypeVar
from uuid import UUID

import structlog

from celeriac.domain.errors import (
    EventLoopEndedError,
    ProviderRateLimitedError,
    SoftTimeLimit,
)
from celeriac.domain.executions.correlation import correlation_of, trace_id_of
from celeriac.domain.executions.model import (
    Claim,
    Completed,
    ExecutionSpec,
    Failed,
    Failure,
    HandedBack,
    Outcome,
    Parked,
    Retry,
)
from celeriac.domain.executions.states import Status
from celeriac.domain.executions.triggers import TriggerType
from celeriac.domain.prompts import WorkLimit, compiled
from celeriac.domain.schemas import check_schema
from celeriac.kit.files import Folder, remove_if_empty
from celeriac.kit.loop import AbandonedError, LoopEndedError, LoopTask, LoopThread
from celeriac.kit.own_loops import OwnLoops
from celeriac.logs import Step
from celeriac.logs.masks import register
from celeriac.services.catalog.specs import SpecCache
from celeriac.services.executions.attempt import Attempt, AttemptRegistry, StopReason
from celeriac.services.executions.checkouts import no_checkout, workdir_of
from celeriac.services.executions.context import AttemptContext, AttemptServices
from celeriac.services.executions.lacks import Lacks
from celeriac.services.executions.masking import MaskedContext, mask_failure, mask_outcome
from celeriac.services.executions.outcomes import (
    outcome_of_error,
    outcome_of_fault,
    outcome_of_turn,
)
from celeriac.services.executions.raised import Raised, describe
from celeriac.services.executions.saving import has_files, save_files
from celeriac.services.ports import Job, Runner, Runners
from celeriac.services.reports import ReportQueue
from celeriac.services.retrying import retry_while_unavailable
from celeriac.services.secrets.hand_out import HandedOut
from celeriac.traces.agents import NO_TRACE, AttemptTrace

logger = structlog.get_logger(__name__)

T = TypeVar("T")

DATABASE_SECONDS = 30.0
"""How long an attempt waits for the database before it has started."""

_RENDERING_SECONDS = 60.0
"""How long an attempt waits to render a large prompt while others render theirs."""

_CANCEL_SECONDS = 5.0
"""How long a cancelled agent may take to end before it is abandoned."""

_LOOK_SECONDS = 0.02
_MOST_VERSIONS = 2_000

AgentTask = LoopTask[Completed | Parked | Raised | BaseException]


@dataclass(slots=True, eq=False)
class Running:
    """A claimed attempt and its agent, from its registration to its outcome."""

    attempt: Attempt
    claim: Claim
    until: float
    """Until when its end may claim further executions, in `time.monotonic()` seconds."""
    began: float
    spec: ExecutionSpec | None = None
    runner: Runner | None = None
    task: AgentTask | None = None
    """The agent, if it could be started."""
    fault: BaseException | None = None
    """Why there is no specification."""
    refused: BaseException | None = None
    """Why the agent could not be started."""
    slot: Event | None = None
    """Set when the slot that the attempt keeps is free; None if it keeps none."""
    waits_for_turn: bool = False
    """Whether it is not started, because another one has its last chance in this process."""
    trace: AttemptTrace = NO_TRACE
    look_at: float = 0.0
    """When its hard limit must be looked at again."""


@dataclass(frozen=True, slots=True)
class AgentRuns:
    """Runs the agents of attempts in this process. Safe to call from many threads at once."""

    specs: SpecCache
    runners: Runners
    attempts: AttemptRegistry
    services: AttemptServices
    reports: ReportQueue
    loop: LoopThread
    own_loops: OwnLoops
    workdirs: Path
    lacks: Lacks
    other_worker_may_run: Callable[[Claim], bool]
    hand_out: Callable[[Claim, ExecutionSpec], HandedOut]
    """Reads the secrets that an agent or its task's repository names."""
    call_ended: Callable[[], None]
    """Called when an execution that a Celery task has started ends."""
    in_checkout: Callable[[Runner], Runner] = no_checkout
    """Returns a runner that makes the checkout of a job's repository first."""
    of_run_ended: Callable[[Sequence[UUID]], None] = lambda run_ids: None  # noqa: ARG005 - no workflows
    """Called with the run of a workflow of which an item has ended; raises nothing."""
    of_limits_ended: Callable[[UUID, Sequence[str]], None] = lambda workspace_id, keys: None  # noqa: ARG005 - no limits
    """Called with keys of which an attempt has given its slots back; raises nothing."""
    _waiting: dict[UUID, None] = field(default_factory=dict)
    """The agent versions whose attempts only wait."""

    def begin(self, claim: Claim, until: float) -> Running:
        """Register a claimed attempt: from now on its lease is its own, and it can be stopped."""
        logger.info(Step.EXECUTION_PICKED_UP, attempt=claim.lease.attempt)
        attempt = Attempt(claim.lease, last_chance=claim.last_chance)
        trace = AttemptTrace(
            trace_id=trace_id_of(claim),
            cause=claim.traceparent,
            execution_id=claim.lease.execution_id,
            attempt=claim.lease.attempt,
            task_id=claim.task_id,
            run_id=claim.run_id,
            parent_id=claim.parent_id,
            queue=claim.queue,
        )
        running = Running(attempt, claim, until, time.monotonic(), trace=trace)
        self.attempts.add(running.attempt)
        return running

    def start(self, running: Running) -> None:
        """Start the agent. Raises nothing: `outcome` knows what failed."""
        claim, attempt = running.claim, running.attempt
        if not self.attempts.may_run(attempt):
            running.waits_for_turn = True
            return
        try:
            spec = running.spec = self._read_spec(claim)
            attempt.time_limits.begin(spec.task.limits)
        except BaseException as error:  # noqa: BLE001 - whatever it is, an outcome is stored
            running.fault = error
            return
        try:
            job = retry_while_unavailable(
                lambda: self._prepare(claim, spec), seconds=DATABASE_SECONDS
            )
            runner = self.runners.get(job.agent)
            if job.repository is not None:
                runner = self.in_checkout(runner)
            running.runner = runner
            if spec.names_secrets:
                job = self._with_secrets(running, spec, job)
            kind = AttemptContext if attempt.masker is None else MaskedContext
            context = kind(
                attempt,
                job,
                runner,
                self.services,
                workdir=self._workdir(claim)
                if job.repository is None
                else workdir_of(self._workdir(claim), job.repository),
                correlation=correlation_of(claim),
                trace=running.trace,
            )
            running.trace.agent_begins(spec.task_name, spec.agent_name, claim.session_id)
            task = running.task = self._start(context, runner, job)
            attempt.on_stop(lambda: task.cancel(_CANCEL_SECONDS))
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - the attempt ends
            running.refused = error
        except BaseException as error:  # noqa: BLE001 - the attempt ends
            running.fault = error

    def only_waits(self, running: Running) -> bool:
        """Whether a started agent needs no slot; see `Runner.only_waits`.

        Waits until the runner knows it, the agent has ended or its hard limit is reached.
        """
        runner, spec, task = running.runner, running.spec, running.task
        if runner is None or spec is None or task is None:
            return False
        while (known := runner.only_waits(spec.agent)) is None:
            if task.wait(_LOOK_SECONDS) or running.attempt.time_limits.hard_passed:
                return False
        if known and running.claim.agent_version_id not in self._waiting:
            if len(self._waiting) >= _MOST_VERSIONS:
                self._waiting.clear()
            self._waiting[running.claim.agent_version_id] = None
        return known

    @property
    def waiting_versions(self) -> list[UUID]:
        """The agent versions whose attempts are known to need no slot."""
        return list(self._waiting)

    def wait(self, running: Running) -> None:
        """Wait until the agent has ended, or is abandoned after its hard limit."""
        if running.task is not None and not running.attempt.time_limits.wait(running.task.wait):
            running.attempt.stop(StopReason.HARD_LIMIT)
            running.task.wait()

    def outcome(self, running: Running) -> Outcome | None:
        """Return the outcome of an attempt whose agent has ended; None if the lease was lost.

        Whatever fails has an outcome. Only the death of this process may leave an attempt without
        one; that counts as a crash (docs/adr/0014). Its files are saved.
        """
        outcome = self._unmasked_outcome(running)
        masker = running.attempt.masker
        return (
            outcome
            if masker is None
            else mask_outcome(masker, outcome, attempt=running.claim.lease.attempt)
        )

    def _unmasked_outcome(self, running: Running) -> Outcome | None:
        attempt, claim = running.attempt, running.claim
        if running.waits_for_turn:
            return outcome_of_turn(attempt, claim)
        found = self._judged(running)
        if found is not None and attempt.used_files:
            save_files(self.services.files, attempt, claim.workspace_id, self._folder(claim))
        return found

    def _judged(self, running: Running) -> Outcome | None:
        attempt, claim, spec = running.attempt, running.claim, running.spec
        if running.fault is not None or spec is None:
            fault = running.fault or RuntimeError("The attempt was not started.")
            return outcome_of_fault(fault, attempt, claim, spec)
        try:
            return self._outcome(running, spec)
        except BaseException as error:  # noqa: BLE001 - whatever it is, an outcome is stored
            return outcome_of_fault(error, attempt, claim, spec)

    def is_simple(self, running: Running) -> bool:
        """Whether `outcome` returns at once: it asks no server, and there are no files to save."""
        if running.task is None or running.fault is not None or running.refused is not None:
            return False
        attempt = running.attempt
        if attempt.used_files and has_files(attempt, self._folder(running.claim)):
            return False
        try:
            result = running.task.result()
        except BaseException:  # noqa: BLE001 - `outcome` handles it
            return False
        if isinstance(result, Raised):
            return not (result.worker_lacks or result.rate_limited)
        return isinstance(result, Completed | Parked)

    def ended(self, running: Running, outcome: Outcome, status: Status | None) -> None:
        """Forget an attempt whose outcome is stored, log it, and enqueue its report.

        Raises nothing: the outcome is stored, and a next claim must not be lost.
        """
        claim = running.claim
        self.attempts.remove(running.attempt)
        try:
            running.trace.end(*_ending(outcome, status))
            report(claim, outcome, status, time.monotonic() - running.began)
            if claim.limit_keys is not None:
                self.of_limits_ended(claim.workspace_id, claim.limit_keys)
            if status is not None and status.terminal:
                if claim.trigger_type == TriggerType.CELERY:
                    self.call_ended()
                if running.attempt.has_workdir or claim.lease.attempt > 1:
                    remove_if_empty(self._workdir(claim))
                if claim.run_id is not None:
                    self.of_run_ended([claim.run_id])
                if running.attempt.has_output:
                    self.reports.enqueue(claim.lease.execution_id, correlation_of(claim))
        except Exception:  # the outcome is stored, and the next claim must not be lost
            logger.exception("execution.not_tidied")

    def _workdir(self, claim: Claim) -> Path:
        return self.workdirs / str(claim.lease.execution_id)

    def _folder(self, claim: Claim) -> Folder:
        return Folder(self.workdirs, str(claim.lease.execution_id))

    def _read_spec(self, claim: Claim) -> ExecutionSpec:
        """Read what the attempt is to do; see `SpecCache.of_versions` for what is raised."""
        options = claim.options  # options that this release can't read are found here
        spec = retry_while_unavailable(
            lambda: self.specs.of_versions(claim.task_version_id, claim.agent_version_id),
            seconds=DATABASE_SECONDS,
        )
        task = options.applied(spec.task)
        return spec if task is spec.task else replace(spec, task=task)

    def _prepare(self, claim: Claim, spec: ExecutionSpec) -> Job:
        if spec.task.output_schema is not None:
            check_schema(spec.task.output_schema, field="output_schema")  # before it costs anything
        if claim.lease.attempt > 1:  # the one before may have been another worker's
            self.services.files.restore(claim.lease.execution_id, self._workdir(claim))
        with WorkLimit(wait_seconds=_RENDERING_SECONDS) as work:
            prompt = compiled(spec.task.prompt).render(claim.variables, work)
        return Job(
            execution_id=claim.lease.execution_id,
            attempt=claim.lease.attempt,
            task_name=spec.task_name,
            agent_name=spec.agent_name,
            agent=spec.agent,
            prompt=prompt,
            variables=claim.variables,
            output_schema=spec.task.output_schema,
            limits=spec.task.limits,
            options=claim.options,
            workspace_id=claim.workspace_id,
            owner_id=claim.owner_id,
            task_id=claim.task_id,
            budget=claim.options.budget or spec.task.budget,
            retry_count=claim.retry_count,
            request_id=claim.request_id,
            session=self.services.sessions.load(claim) if claim.session_id else None,
            repository=spec.task.repository,
        )

    def _with_secrets(self, running: Running, spec: ExecutionSpec, job: Job) -> Job:
        """Return the job with its secrets, whose values are masked from now on."""
        claim, attempt = running.claim, running.attempt
        handed_out = retry_while_unavailable(
            lambda: self.hand_out(claim, spec), seconds=DATABASE_SECONDS
        )
        attempt.masker = handed_out.masker()
        register(str(claim.lease.execution_id), attempt.masker)
        events = handed_out.events()
        attempt.write(lambda pending: pending.events.extend(events))
        return replace(
            job,
            secrets=handed_out.variables,
            credentials=handed_out.credentials,
            repository_access=handed_out.repository,
        )

    def _start(self, context: AttemptContext, runner: Runner, job: Job) -> AgentTask:
        """Start the agent; no exception of it reaches the event loop."""
        work = context.trace.run(_within_soft_limit(runner.run(job, context), context, job))
        if runner.runs_user_code:
            # describing an exception may run the user's code, so it is done in their thread too
            return self.own_loops.start(
                _caught(work, lambda error: describe(error, attempt=job.attempt))
            )
        return self.loop.start(_caught(work, lambda error: error))

    def _outcome(self, running: Running, spec: ExecutionSpec) -> Outcome | None:
        attempt, claim = running.attempt, running.claim
        result = running.refused or self._result(running)
        if isinstance(result, BaseException):
            result = describe(result, attempt=claim.lease.attempt)
        if not isinstance(result, Raised):
            return result
        if attempt.masker is not None:  # before its message goes anywhere
            failure = mask_failure(attempt.masker, result.failure)
            result = replace(result, failure=failure)
        if result.worker_lacks:
            self.lacks.add(result.failure.message)
            self._waiting.pop(claim.agent_version_id, None)  # claim no further ones for it
            if self.other_worker_may_run(claim):
                result = replace(result, not_its_own=True)
        if result.rate_limited is not None:
            result = self._on_rate_limited(result, result.rate_limited, claim, spec)
        return outcome_of_error(result, attempt, claim, spec)

    def _result(self, running: Running) -> Completed | Parked | Raised | BaseException:
        """Return what an agent that has ended did."""
        runner, task = running.runner, running.task
        if runner is None or task is None:
            return RuntimeError("The agent was not started.")
        try:
            return task.result()
        except AbandonedError as error:
            reason = running.attempt.stop_reason
            logger.critical("agent.left_behind", runner=runner.name, reason=reason)
            if not runner.runs_user_code and self.loop.renew():
                logger.critical("agent.blocks_loop", runner=runner.name)
            return error
        except LoopEndedError as error:
            logger.critical("agent.loop_ended", runner=runner.name, error=str(error))
            return EventLoopEndedError(str(error))
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - the attempt ends
            return error

    def _on_rate_limited(
        self, raised: Raised, error: ProviderRateLimitedError, claim: Claim, spec: ExecutionSpec
    ) -> Raised:
        """Park an attempt whose provider answered 429, if its runner can resume."""
        parked = self.services.admission.limits.on_rate_limited(
            claim.lease.execution_id, error, replayed=claim.options.cassette_id is not None
        )
        if parked is None or not self.runners.get(spec.agent).resumable:
            return raised
        return replace(raised, parked=parked)


async def _caught(
    work: Awaitable[Completed | Parked], catch: Callable[[BaseException], T]
) -> Completed | Parked | T:
    """Return what an agent raises: SystemExit would end the loop and all that runs on it."""
    try:
        return await work
    except BaseException as error:  # noqa: BLE001 - agents raise anything
        return catch(error)


async def _within_soft_limit(
    work: Awaitable[Completed | Parked], context: AttemptContext, job: Job
) -> Completed | Parked:
    scope = None
    try:
        async with context.time_limits.soft() as scope:
            return await work
    except TimeoutError as error:
        if scope is None or not scope.expired():
            raise
        raise SoftTimeLimit(
            f"The attempt ran past its soft limit of {job.limits.soft_seconds:g} s."
        ) from error


def _ending(outcome: Outcome, status: Status | None) -> tuple[str, str | None]:
    """Return how an attempt ended, and the code of its failure."""
    failure = getattr(outcome, "failure", None)
    code = failure.code if isinstance(failure, Failure) else None
    return ("lease_lost", "lease_lost") if status is None else (status.value, code)


def report(claim: Claim, outcome: Outcome, status: Status | None, seconds: float) -> None:
    """Log the outcome that was stored."""
    facts: dict[str, object] = {"attempt": claim.lease.attempt}
    ms = round(seconds * 1000, 1)
    match outcome:
        case _ if status is None:
            logger.warning(Step.EXECUTION_LEASE_LOST, **facts)
        case Failed(failure):
            logger.error(Step.EXECUTION_FAILED, **facts, duration_ms=ms, **_error(failure))
        case Retry(failure, delay):
            facts["delay"] = round(delay, 3)
            logger.warning(Step.EXECUTION_RETRY_SCHEDULED, **facts, **_error(failure))
        case HandedBack(Failure() as failure, delay):
            facts["delay"] = round(delay, 3)
            facts |= {"error_code": failure.code, "error": failure.message}
            logger.warning(Step.EXECUTION_HANDED_BACK, **facts)
        case Parked():
            facts |= {"waiting_for": outcome.reason, "note": outcome.note}
            logger.info(Step.EXECUTION_PARKED, **facts)
            for question in outcome.questions:
                logger.info(Step.APPROVAL_ASKED, kind=question.kind, key=question.key)
        case _:
            step = _STEPS.get(status, Step.EXECUTION_HANDED_BACK)
            logger.info(step, **facts, duration_ms=ms)


def _error(failure: Failure) -> dict[str, object]:
    return {
        "error_code": failure.code,
        "error": failure.message,
        "traceback": failure.details.get("traceback"),
    }


_STEPS = {
    Status.COMPLETED: Step.EXECUTION_COMPLETED,
    Status.CANCELLED: Step.EXECUTION_CANCELLED,
}
