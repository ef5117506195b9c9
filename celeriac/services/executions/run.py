"""Runs executions that a message names: claim, prepare, run the agent, finish."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar
from uuid import UUID, uuid4

import structlog

from celeriac.db.engine import Database
from celeriac.db.executions import lifecycle
from celeriac.db.executions.lifecycle import NextClaim
from celeriac.domain.errors import (
    DatabaseUnavailableError,
    EventLoopEndedError,
    HardTimeLimitError,
    ProviderRateLimitedError,
    RetryableError,
    SoftTimeLimit,
    SpecificationUnreadableError,
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
)
from celeriac.domain.executions.states import Status
from celeriac.domain.prompts import WorkLimit, compiled
from celeriac.domain.schemas import check_schema
from celeriac.domain.tasks import RetryPolicy
from celeriac.kit.backoff import grown
from celeriac.kit.loop import AbandonedError, LoopEndedError, LoopTask, LoopThread
from celeriac.kit.own_loops import OwnLoops
from celeriac.logs import Step, bound
from celeriac.services.catalog.plans import SpecCache
from celeriac.services.executions.attempt import (
    Attempt,
    AttemptRegistry,
    AttemptServices,
    StopReason,
)
from celeriac.services.executions.event_writer import EventWriter
from celeriac.services.executions.finish import Finish, Raised, describe, outcome_for
from celeriac.services.executions.other_workers import Lacks, OtherWorkers
from celeriac.services.ports import Job, LiveEvents, Runner, Runners
from celeriac.services.reports import ReportQueue
from celeriac.services.retrying import retry_while_unavailable

_PATIENCE_SECONDS = 30.0
"""How long a message waits for the database; then it is dropped and the keeper sends another."""


class ClaimAttempt:
    """Claims attempts in the name of one worker."""

    def __init__(self, database: Database, *, worker: str, lease_seconds: float) -> None:
        """Claim for `worker`, with leases of `lease_seconds`."""
        self._database = database
        self._worker = worker
        self._lease_seconds = lease_seconds

    def __call__(self, message: Message) -> Claim | None:
        """Return the claim, or None where the message is a double or the execution was cancelled.

        Raises DatabaseUnavailableError after half a minute without the database. A claim whose
        answer got lost is found again.
        """
        token = uuid4()
        try:
            return self._once(message, token)
        except DatabaseUnavailableError:
            return retry_while_unavailable(
                lambda: self._again(message, token), seconds=_PATIENCE_SECONDS
            )

    def _once(self, message: Message, token: UUID) -> Claim | None:
        with self._database.statement() as connection:
            return lifecycle.claim(
                connection,
                message,
                token=token,
                worker=self._worker,
                lease_seconds=self._lease_seconds,
            )

    def _again(self, message: Message, token: UUID) -> Claim | None:
        claim = self._once(message, token)
        if claim is not None:
            return claim
        with self._database.statement() as connection:
            return lifecycle.find_claim(connection, token)


logger = structlog.get_logger(__name__)

T = TypeVar("T")

_TURN_SECONDS = 1.0
"""How long a slot goes on by itself. Messages that wait in the broker wait so much longer."""
"""How long an attempt waits for the database before it is begun; then it is handed back."""

_LONGEST_BACK_SECONDS = 300.0
"""How long an attempt waits at most that a worker could not begin: twice as long each time."""

_RENDERING_PATIENCE_SECONDS = 60.0
"""How long an attempt waits for its turn to render a prompt that takes long."""

_WIND_UP_SECONDS = 5.0
"""How long a stopped agent may take to let go before it is left behind."""


@dataclass(frozen=True, slots=True)
class ExecutorDependencies:
    """What the pipeline is made of; put together by the wiring."""

    plans: SpecCache
    claim: ClaimAttempt
    finish: Finish
    runners: Runners
    active: AttemptRegistry
    event_writer: EventWriter
    backing: AttemptServices
    reporting: ReportQueue
    live: LiveEvents
    loop: LoopThread
    own_loops: OwnLoops
    workdirs: Path
    worker: str
    lease_seconds: float
    others: OtherWorkers
    lacks: Lacks
    closing: Callable[[], bool]
    """Whether this process shuts down and must take nothing new."""


class Execute:
    """Runs attempts in this process. Safe to call from many threads at once."""

    def __init__(self, parts: ExecutorDependencies) -> None:
        """Use `parts`."""
        self._parts = parts

    def __call__(self, message: Message) -> int:
        """Run the attempt that `message` offers; return how many attempts were run.

        None for a double. More than one while executions of the same queue are pending: within its
        first second a slot takes them one after the other, each claimed by the statement that
        finishes the one before, which spares the broker a message for each. Longer work goes back
        to Celery each time. Raises DatabaseUnavailableError when the database stays away; nothing
        is lost by that.
        """
        until = time.monotonic() + _TURN_SECONDS
        claim = self._parts.claim(message)
        if claim is None:
            logger.info(
                "execution.dropped", execution_id=message.execution_id, attempt=message.attempt
            )
        count = 0
        while claim is not None:
            with bound(_correlation(claim)):
                claim = self._attempt(claim, lambda queue: self._turn(queue, until))
            count += 1
        return count

    def _turn(self, queue: str, until: float) -> NextClaim | None:
        if time.monotonic() > until or self._parts.closing():
            return None
        return NextClaim(queue, self._parts.worker, self._parts.lease_seconds)

    def _attempt(self, claim: Claim, turn: Callable[[str], NextClaim | None]) -> Claim | None:
        """Run one attempt to its end; return the next claim, if one was taken with it."""
        logger.info(Step.EXECUTION_PICKED_UP, attempt=claim.lease.attempt)
        began = time.monotonic()
        attempt = self._open(claim)
        with self._parts.active.running(attempt):
            outcome = self._outcome(attempt, claim)
            if outcome is None:
                logger.warning(Step.EXECUTION_LEASE_LOST, attempt=claim.lease.attempt)
                return None
            notes = self._parts.event_writer.last_page(attempt)
            finished = self._parts.finish(
                claim, outcome, notes, turn(claim.queue), has_session=attempt.has_session
            )
        try:
            _report(claim, finished.instead or outcome, finished.status, time.monotonic() - began)
            self._tidy(attempt, claim, finished.status)
        except Exception:  # it is stored, and the next claim must not be lost
            logger.exception("execution.not_tidied")
        return finished.claim

    def _open(self, claim: Claim) -> Attempt:
        return Attempt(
            claim.lease,
            workdir=self._parts.workdirs / str(claim.lease.execution_id),
            correlation=_correlation(claim),
            on_delta=self._parts.live.delta,
        )

    def _outcome(self, attempt: Attempt, claim: Claim) -> Outcome | None:
        """Return what the attempt comes to, whatever fails; None means that the lease was lost.

        Nothing but the death of this process may leave an attempt without an outcome: that counts
        as a crash (docs/adr/0014).
        """
        plan = None
        try:
            plan = self._plan(claim)
            attempt.time_limits.begin(plan.task.limits)
            return self._run(attempt, claim, plan)
        except BaseException as error:  # noqa: BLE001 - whatever it is, an outcome is stored
            return _fault(error, attempt, claim, plan)

    def _plan(self, claim: Claim) -> ExecutionSpec:
        """Read what the attempt is to do; see `SpecCache.of_versions` for what is raised."""
        _ = claim.options  # they are read here already, where an unreadable one is handed back
        return retry_while_unavailable(
            lambda: self._parts.plans.of_versions(claim.task_version_id, claim.agent_version_id),
            seconds=_PATIENCE_SECONDS,
        )

    def _tidy(self, attempt: Attempt, claim: Claim, status: Status | None) -> None:
        if status is not None and status.terminal:
            attempt.tidy()
            if attempt.spoke:
                self._parts.reporting.enqueue(claim.lease.execution_id, _correlation(claim))

    def _prepare(self, claim: Claim, plan: ExecutionSpec) -> Job:
        if plan.task.output_schema is not None:
            check_schema(plan.task.output_schema, field="output_schema")  # before it costs anything
        with WorkLimit(wait_seconds=_RENDERING_PATIENCE_SECONDS) as work:
            prompt = compiled(plan.task.prompt).render(claim.variables, work)
        return Job(
            execution_id=claim.lease.execution_id,
            attempt=claim.lease.attempt,
            task_name=plan.task_name,
            agent_name=plan.agent_name,
            agent=plan.agent,
            prompt=prompt,
            variables=claim.variables,
            output_schema=plan.task.output_schema,
            limits=plan.task.limits,
            options=claim.options,
            owner_id=claim.owner_id,
            task_id=claim.task_id,
            budget=claim.options.budget or plan.task.budget,
            session=self._parts.backing.conversations.of(claim),
        )

    def _run(self, attempt: Attempt, claim: Claim, plan: ExecutionSpec) -> Outcome | None:
        """Run the agent to its outcome; None means that the lease was lost."""
        came: Completed | Parked | Raised | BaseException
        try:
            job = retry_while_unavailable(
                lambda: self._prepare(claim, plan), seconds=_PATIENCE_SECONDS
            )
            runner = self._parts.runners.get(job.agent)
            attempt.back(self._parts.backing, job, runner)
            came = self._wait(attempt, runner, self._start(attempt, runner, job))
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - the attempt ends
            came = error
        if isinstance(came, BaseException):
            came = describe(came, attempt=claim.lease.attempt)
        if not isinstance(came, Raised):
            return came
        if came.worker_lacks:
            self._parts.lacks.add(came.failure.message)
            if self._parts.others.may_run(claim):
                came = replace(came, not_its_own=True)
        if came.rate_limited is not None:
            came = self._sent_away(came, came.rate_limited, claim, plan)
        return _ending(came, attempt, claim, plan)

    def _start(
        self, attempt: Attempt, runner: Runner, job: Job
    ) -> LoopTask[Completed | Parked | Raised | BaseException]:
        """Start the agent; nothing that it raises reaches the event loop."""
        work = _within_soft_limit(runner.run(job, attempt), attempt, job)
        if runner.runs_user_code:
            # what is a user's is described in the agent's own thread: that may run their code, too
            return self._parts.own_loops.start(
                _caught(work, lambda error: describe(error, attempt=job.attempt))
            )
        return self._parts.loop.start(_caught(work, lambda error: error))

    def _sent_away(
        self, raised: Raised, error: ProviderRateLimitedError, claim: Claim, plan: ExecutionSpec
    ) -> Raised:
        """Have an attempt wait without a worker whose provider asks to slow down."""
        played = claim.options.cassette_id is not None
        parked = self._parts.backing.admission.on_rate_limited(claim.lease, error, played=played)
        if parked is None or not self._parts.runners.get(plan.agent).resumable:
            return raised
        return replace(raised, parked=parked)

    def _wait(
        self,
        attempt: Attempt,
        runner: Runner,
        running: LoopTask[Completed | Parked | Raised | BaseException],
    ) -> Completed | Parked | Raised | BaseException:
        attempt.on_stop(lambda: running.cancel(_WIND_UP_SECONDS))
        if not attempt.time_limits.wait(running.wait):
            attempt.stop(StopReason.HARD_LIMIT)
            running.wait()  # at most until the end of the grace time
        try:
            return running.result()
        except AbandonedError as error:
            logger.critical("agent.left_behind", runner=runner.name, reason=attempt.stop_reason)
            if not runner.runs_user_code and self._parts.loop.renew():
                logger.critical("agent.blocks_loop", runner=runner.name)
            return error
        except LoopEndedError as error:
            logger.critical("agent.loop_ended", runner=runner.name, error=str(error))
            return EventLoopEndedError(str(error))


async def _caught(
    work: Awaitable[Completed | Parked], catch: Callable[[BaseException], T]
) -> Completed | Parked | T:
    """Return what an agent raises: SystemExit would end the loop, with all that runs on it."""
    try:
        return await work
    except BaseException as error:  # noqa: BLE001 - agents raise anything
        return catch(error)


async def _within_soft_limit(
    work: Awaitable[Completed | Parked], attempt: Attempt, job: Job
) -> Completed | Parked:
    scope = None
    try:
        async with attempt.time_limits.soft() as scope:
            return await work
    except TimeoutError as error:
        if scope is None or not scope.expired():
            raise
        raise SoftTimeLimit(
            f"The attempt ran past its soft limit of {job.limits.soft_seconds:g} s."
        ) from error


def _ending(raised: Raised, attempt: Attempt, claim: Claim, plan: ExecutionSpec) -> Outcome | None:
    """Return what an attempt ends as whose agent raised, by itself or because it was stopped."""
    number = claim.lease.attempt
    match attempt.stop_reason:
        case StopReason.LEASE_LOST:
            return None
        case StopReason.CANCELLED:
            return Stopped()
        case StopReason.SHUTDOWN:
            return HandedBack()
        case StopReason.HARD_LIMIT:
            limit = plan.task.limits.hard_seconds
            stopped = HardTimeLimitError(
                f"The attempt was stopped at its hard limit of {limit:g} s."
            )
            raised = describe(stopped, attempt=number)
        case None if raised.parked is not None:
            return raised.parked
        case None if raised.not_its_own:
            return _handed_back(raised.failure, claim)
        case None if raised.cancelled:
            raised = describe(RetryableError("The agent cancelled itself."), attempt=number)
    return outcome_for(raised, plan.task.retry, retry_count=claim.retry_count)


def _fault(
    error: BaseException, attempt: Attempt, claim: Claim, plan: ExecutionSpec | None
) -> Outcome | None:
    """Return what becomes of an attempt that could not be begun, or whose end raised."""
    match attempt.stop_reason:
        case StopReason.LEASE_LOST:
            return None
        case StopReason.CANCELLED:
            return Stopped()
        case StopReason.SHUTDOWN:
            return HandedBack()
    raised = describe(error, attempt=claim.lease.attempt)
    if raised.not_its_own or isinstance(error, SpecificationUnreadableError):
        return _handed_back(raised.failure, claim)
    logger.error("execution.fault", exc_info=error)
    policy = RetryPolicy() if plan is None else plan.task.retry
    return outcome_for(raised, policy, retry_count=claim.retry_count)


def _handed_back(failure: Failure, claim: Claim) -> HandedBack:
    """Give the attempt back, not at once, for a fault that is not its agent's."""
    seconds = grown(1.0, claim.lease.attempt, _LONGEST_BACK_SECONDS)
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
    attempt = claim.lease.attempt
    ms = round(seconds * 1000, 1)
    if status is None:
        logger.warning(Step.EXECUTION_LEASE_LOST, attempt=attempt)
    elif isinstance(outcome, Failed):
        failure = outcome.failure
        logger.error(
            Step.EXECUTION_FAILED,
            attempt=attempt,
            duration_ms=ms,
            error_code=failure.code,
            error=failure.message,
            traceback=failure.details.get("traceback"),
        )
    elif isinstance(outcome, Retry):
        logger.warning(
            Step.EXECUTION_RETRY_SCHEDULED,
            attempt=attempt,
            delay=round(outcome.delay, 3),
            error_code=outcome.failure.code,
            error=outcome.failure.message,
            traceback=outcome.failure.details.get("traceback"),
        )
    elif isinstance(outcome, HandedBack) and outcome.failure is not None:
        logger.warning(
            Step.EXECUTION_HANDED_BACK,
            attempt=attempt,
            delay=round(outcome.delay, 3),
            error_code=outcome.failure.code,
            error=outcome.failure.message,
        )
    elif isinstance(outcome, Parked):
        logger.info(
            Step.EXECUTION_PARKED, attempt=attempt, waiting_for=outcome.reason, note=outcome.note
        )
        for question in outcome.questions:
            logger.info(Step.APPROVAL_ASKED, kind=question.kind, key=question.key)
    else:
        step = _STEPS.get(status, Step.EXECUTION_HANDED_BACK)
        logger.info(step, attempt=attempt, duration_ms=ms)


_STEPS = {
    Status.COMPLETED: Step.EXECUTION_COMPLETED,
    Status.CANCELLED: Step.EXECUTION_CANCELLED,
}
