"""Runs the execution that a message names: claim, prepare, run the agent, finish."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar
from uuid import UUID

import structlog

from celeriac.db import workers
from celeriac.db.engine import Database
from celeriac.db.executions import lifecycle
from celeriac.db.executions.lifecycle import NextClaim
from celeriac.domain.errors import (
    DatabaseUnavailableError,
    EventLoopEndedError,
    HardTimeLimitError,
    LeaseExpiredError,
    ProviderRateLimitedError,
    RetryableError,
    SoftTimeLimit,
    SpecificationUnreadableError,
    WorkerMisconfiguredError,
)
from celeriac.domain.executions.model import (
    Claim,
    Completed,
    ExecutionSpec,
    Failed,
    Failure,
    HandedBack,
    Message,
    Outcome,
    Parked,
    Retry,
    Stopped,
    TriggerType,
    WorkerIdentity,
)
from celeriac.domain.executions.states import Status
from celeriac.domain.prompts import WorkLimit, compiled
from celeriac.domain.schemas import check_schema
from celeriac.domain.tasks import RetryPolicy
from celeriac.kit.backoff import grown
from celeriac.kit.files import remove_if_empty
from celeriac.kit.loop import AbandonedError, LoopEndedError, LoopTask, LoopThread
from celeriac.kit.own_loops import OwnLoops
from celeriac.logs import Step, bound
from celeriac.services.catalog.specs import SpecCache
from celeriac.services.executions.attempt import (
    Attempt,
    AttemptRegistry,
    ClaimTokens,
    Registration,
    StopReason,
)
from celeriac.services.executions.context import AttemptContext, AttemptServices
from celeriac.services.executions.finish import Finish, Raised, describe, outcome_for
from celeriac.services.executions.lacks import Lacks
from celeriac.services.ports import Job, Runner, Runners
from celeriac.services.reports import ReportQueue
from celeriac.services.retrying import retry_while_unavailable

logger = structlog.get_logger(__name__)

T = TypeVar("T")

DATABASE_SECONDS = 30.0
"""How long a message waits for the database. After that the keeper sends another one."""

_LEASE_WAIT_SECONDS = 1.0
"""How long one try of a claim waits for the heartbeat to renew the lease of this process."""

_NEXT_CLAIM_SECONDS = 1.0
"""How long a slot claims further executions by itself. Messages in the broker wait meanwhile."""

_LONGEST_HAND_BACK_SECONDS = 300.0
"""The longest delay of an attempt that was handed back; it doubles each time."""

_RENDERING_SECONDS = 60.0
"""How long an attempt waits to render a large prompt while others render theirs."""

_CANCEL_SECONDS = 5.0
"""How long a cancelled agent may take to end before it is abandoned."""

MOST_HAND_BACKS = 8
"""How often misconfigured workers hand back one execution before it fails."""


class ClaimAttempt:
    """Claims attempts for one worker process."""

    def __init__(
        self, database: Database, registration: Registration, *, lease_seconds: float
    ) -> None:
        self._database = database
        self._registration = registration
        self._lease_seconds = lease_seconds

    def __call__(self, message: Message, token: UUID) -> Claim | None:
        """Claim the attempt; None if the message is a duplicate or the execution was cancelled.

        A claim whose answer was lost is found again. If the lease of this process has expired, the
        claim waits until it is renewed. Raises DatabaseUnavailableError after 30 s.
        """
        try:
            return self._claim(message, token)
        except DatabaseUnavailableError:
            return retry_while_unavailable(
                lambda: self._claim_again(message, token), seconds=DATABASE_SECONDS
            )

    @property
    def worker(self) -> WorkerIdentity:
        """The identity of the process."""
        return self._registration.worker

    def _claim(self, message: Message, token: UUID) -> Claim | None:
        worker = self._registration.wait(_LEASE_WAIT_SECONDS)
        try:
            with self._database.autocommit() as connection:
                return lifecycle.claim(connection, message, token=token, worker=worker)
        except LeaseExpiredError:
            self._registration.expired(worker)
            raise

    def _claim_again(self, message: Message, token: UUID) -> Claim | None:
        claim = self._claim(message, token)
        if claim is not None:
            return claim
        with self._database.autocommit() as connection:
            return lifecycle.find_claim(connection, token, self.worker.id)

    def other_worker_may_run(self, claim: Claim) -> bool:
        """Whether a live worker has not tried what this worker's configuration lacks.

        Raises DatabaseUnavailableError.
        """
        with self._database.autocommit() as connection:
            return workers.has_untried_worker(
                connection,
                claim.lease.execution_id,
                queue=claim.queue,
                hostname=self.worker.name.partition("/")[0],
                code=WorkerMisconfiguredError.code,
                most=MOST_HAND_BACKS,
                within_seconds=self._lease_seconds,
            )


@dataclass(frozen=True, slots=True)
class Execute:
    """Runs attempts in this process. Safe to call from many threads at once."""

    specs: SpecCache
    claim: ClaimAttempt
    finish: Finish
    runners: Runners
    attempts: AttemptRegistry
    services: AttemptServices
    reports: ReportQueue
    loop: LoopThread
    own_loops: OwnLoops
    workdirs: Path
    lacks: Lacks
    shutting_down: Callable[[], bool]
    """Whether this process must take nothing new."""
    call_ended: Callable[[], None]
    """Called when an execution that a Celery task has started ends."""
    of_run_ended: Callable[[Sequence[UUID]], None] = lambda run_ids: None  # noqa: ARG005 - no workflows
    """Called with the run of a workflow of which an item has ended; raises nothing."""

    def __call__(self, message: Message) -> int:
        """Run the attempt that `message` names; return how many attempts were run.

        0 for a duplicate. More than 1 while executions of the same queue are pending: within its
        first second a slot claims the next one in the statement that finishes the one before.
        Raises DatabaseUnavailableError while the database is away; nothing is lost by that.
        """
        until = time.monotonic() + _NEXT_CLAIM_SECONDS
        count = 0
        with self.attempts.claiming() as tokens:
            claim = self.claim(message, tokens.new())
            if claim is None:
                logger.info(
                    "execution.dropped", execution_id=message.execution_id, attempt=message.attempt
                )
            while claim is not None:
                with bound(_correlation(claim)):
                    claim = self.run_claim(claim, tokens, until)
                count += 1
        return count

    def _next_claim(self, queue: str, tokens: ClaimTokens, until: float) -> NextClaim | None:
        if time.monotonic() > until or self.shutting_down():
            return None
        return NextClaim(queue, self.claim.worker, tokens.new())

    def run_claim(self, claim: Claim, tokens: ClaimTokens, until: float) -> Claim | None:
        """Run one attempt to its end; return the next claim, if finishing made one.

        None is claimed after `until`, in `time.monotonic()` seconds.
        """
        logger.info(Step.EXECUTION_PICKED_UP, attempt=claim.lease.attempt)
        began = time.monotonic()
        attempt = Attempt(claim.lease)
        with self.attempts.registered(attempt):
            outcome = self._outcome(attempt, claim)
            if outcome is None:
                logger.warning(Step.EXECUTION_LEASE_LOST, attempt=claim.lease.attempt)
                return None
            finished = self.finish(
                claim,
                outcome,
                attempt.last_batches(),
                self._next_claim(claim.queue, tokens, until),
                has_rows=attempt.has_rows,
            )
        try:
            _report(claim, finished.instead or outcome, finished.status, time.monotonic() - began)
            if finished.status is not None and finished.status.terminal:
                if claim.trigger_type == TriggerType.CELERY:
                    self.call_ended()
                if attempt.has_workdir or claim.lease.attempt > 1:
                    remove_if_empty(self._workdir(claim))
                if claim.run_id is not None:
                    self.of_run_ended([claim.run_id])
                if attempt.has_output:
                    self.reports.enqueue(claim.lease.execution_id, _correlation(claim))
        except Exception:  # the outcome is stored, and the next claim must not be lost
            logger.exception("execution.not_tidied")
        return finished.claim

    def _workdir(self, claim: Claim) -> Path:
        return self.workdirs / str(claim.lease.execution_id)

    def _outcome(self, attempt: Attempt, claim: Claim) -> Outcome | None:
        """Return the outcome of the attempt, whatever fails; None if the lease was lost.

        Only the death of this process may leave an attempt without an outcome; that counts as a
        crash (docs/adr/0014).
        """
        spec = None
        try:
            spec = self._read_spec(claim)
            attempt.time_limits.begin(spec.task.limits)
            return self._run(attempt, claim, spec)
        except BaseException as error:  # noqa: BLE001 - whatever it is, an outcome is stored
            return _outcome_of_fault(error, attempt, claim, spec)

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
            session=self.services.sessions.load(claim),
        )

    def _run(self, attempt: Attempt, claim: Claim, spec: ExecutionSpec) -> Outcome | None:
        """Run the agent to its outcome; None if the lease was lost."""
        result: Completed | Parked | Raised | BaseException
        try:
            job = retry_while_unavailable(
                lambda: self._prepare(claim, spec), seconds=DATABASE_SECONDS
            )
            runner = self.runners.get(job.agent)
            context = AttemptContext(
                attempt,
                job,
                runner,
                self.services,
                workdir=self._workdir(claim),
                correlation=_correlation(claim),
            )
            result = self._wait(attempt, runner, self._start(context, runner, job))
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - the attempt ends
            result = error
        if isinstance(result, BaseException):
            result = describe(result, attempt=claim.lease.attempt)
        if not isinstance(result, Raised):
            return result
        if result.worker_lacks:
            self.lacks.add(result.failure.message)
            if self.claim.other_worker_may_run(claim):
                result = replace(result, not_its_own=True)
        if result.rate_limited is not None:
            result = self._on_rate_limited(result, result.rate_limited, claim, spec)
        return _outcome_of_error(result, attempt, claim, spec)

    def _start(
        self, context: AttemptContext, runner: Runner, job: Job
    ) -> LoopTask[Completed | Parked | Raised | BaseException]:
        """Start the agent; no exception of it reaches the event loop."""
        work = _within_soft_limit(runner.run(job, context), context, job)
        if runner.runs_user_code:
            # describing an exception may run the user's code, so it is done in their thread too
            return self.own_loops.start(
                _caught(work, lambda error: describe(error, attempt=job.attempt))
            )
        return self.loop.start(_caught(work, lambda error: error))

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

    def _wait(
        self,
        attempt: Attempt,
        runner: Runner,
        running: LoopTask[Completed | Parked | Raised | BaseException],
    ) -> Completed | Parked | Raised | BaseException:
        attempt.on_stop(lambda: running.cancel(_CANCEL_SECONDS))
        if not attempt.time_limits.wait(running.wait):
            attempt.stop(StopReason.HARD_LIMIT)
            running.wait()  # until the agent has ended or is abandoned
        try:
            return running.result()
        except AbandonedError as error:
            logger.critical("agent.left_behind", runner=runner.name, reason=attempt.stop_reason)
            if not runner.runs_user_code and self.loop.renew():
                logger.critical("agent.blocks_loop", runner=runner.name)
            return error
        except LoopEndedError as error:
            logger.critical("agent.loop_ended", runner=runner.name, error=str(error))
            return EventLoopEndedError(str(error))


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


_STOPPED: dict[StopReason | None, Outcome | None] = {
    StopReason.LEASE_LOST: None,
    StopReason.CANCELLED: Stopped(),
    StopReason.SHUTDOWN: HandedBack(),
}
"""Outcomes of attempts that were stopped from outside, whatever the agent raised then."""


def _outcome_of_error(
    raised: Raised, attempt: Attempt, claim: Claim, spec: ExecutionSpec
) -> Outcome | None:
    """Return the outcome of an attempt whose agent raised, by itself or because it was stopped."""
    if attempt.stop_reason in _STOPPED:
        return _STOPPED[attempt.stop_reason]
    if attempt.stop_reason is StopReason.HARD_LIMIT:
        limit = spec.task.limits.hard_seconds
        error = HardTimeLimitError(f"The attempt was stopped at its hard limit of {limit:g} s.")
        raised = describe(error, attempt=claim.lease.attempt)
    elif raised.parked is not None:
        return raised.parked
    elif raised.not_its_own:
        return _handed_back(raised.failure, claim)
    elif raised.cancelled:
        cancelled = RetryableError("The agent cancelled itself.")
        raised = describe(cancelled, attempt=claim.lease.attempt)
    return outcome_for(raised, spec.task.retry, retry_count=claim.retry_count)


def _outcome_of_fault(
    error: BaseException, attempt: Attempt, claim: Claim, spec: ExecutionSpec | None
) -> Outcome | None:
    """Return the outcome of an attempt that failed outside its agent."""
    if attempt.stop_reason in _STOPPED:
        return _STOPPED[attempt.stop_reason]
    raised = describe(error, attempt=claim.lease.attempt)
    if raised.not_its_own or isinstance(error, SpecificationUnreadableError):
        return _handed_back(raised.failure, claim)
    logger.error("execution.fault", exc_info=error)
    policy = RetryPolicy() if spec is None else spec.task.retry
    return outcome_for(raised, policy, retry_count=claim.retry_count)


def _handed_back(failure: Failure, claim: Claim) -> HandedBack:
    """Hand the attempt back, with a delay, for a fault that is not its agent's."""
    seconds = grown(1.0, claim.lease.attempt, _LONGEST_HAND_BACK_SECONDS)
    return HandedBack(failure, seconds * random.uniform(0.5, 1))


def _correlation(claim: Claim) -> dict[str, str]:
    ids = {
        "request_id": claim.request_id,
        "user_id": str(claim.owner_id),
        "task_id": str(claim.task_id),
        "execution_id": str(claim.lease.execution_id),
        "celery_task_id": claim.celery_task_id,
        "session_id": str(claim.session_id) if claim.session_id else None,
    }
    return {name: value for name, value in ids.items() if value}


def _report(claim: Claim, outcome: Outcome, status: Status | None, seconds: float) -> None:
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
