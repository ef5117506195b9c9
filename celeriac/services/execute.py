"""Execute: the pipeline of one attempt, from a message to a committed outcome.

    claim → prepare → run → finish

Each step is a method. The thread that calls stays with the attempt to its end; the agent itself
runs on the process's event loop.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import structlog

from celeriac.db.transitions import Turn
from celeriac.domain.errors import (
    HardTimeLimitError,
    ProviderRateLimitedError,
    RetryableError,
    SoftTimeLimit,
)
from celeriac.domain.execution import Claim, Message
from celeriac.domain.outcome import (
    Completed,
    Failed,
    HandedBack,
    MustWaitError,
    Outcome,
    Parked,
    Retry,
    Stopped,
)
from celeriac.domain.plan import Plan
from celeriac.domain.prompt import compiled
from celeriac.domain.states import Status
from celeriac.kit.loop import LeftBehindError, LoopThread, Running
from celeriac.logs import Step, bound
from celeriac.services.active import ActiveAttempts
from celeriac.services.attempt import Attempt, StopReason
from celeriac.services.backing import Backing
from celeriac.services.claim import ClaimAttempt
from celeriac.services.failures import outcome_of
from celeriac.services.finish import Finish
from celeriac.services.notebook import Notebook
from celeriac.services.plans import Plans
from celeriac.services.ports import Job, LiveEvents, Runners
from celeriac.services.reporting import Reporting

logger = structlog.get_logger(__name__)

_TURN_SECONDS = 1.0
"""How long a slot goes on by itself. Messages that wait in the broker wait so much longer."""

_WIND_UP_SECONDS = 5.0
"""How long a stopped agent may take to let go before it is left behind."""


@dataclass(frozen=True, slots=True)
class Parts:
    """What the pipeline is made of; put together by the wiring."""

    plans: Plans
    claim: ClaimAttempt
    finish: Finish
    runners: Runners
    active: ActiveAttempts
    notebook: Notebook
    backing: Backing
    reporting: Reporting
    live: LiveEvents
    loop: LoopThread
    workdirs: Path
    worker: str
    lease_seconds: float
    closing: Callable[[], bool]
    """Whether this process shuts down and must take nothing new."""


class Execute:
    """Runs attempts in this process. Safe to call from many threads at once."""

    def __init__(self, parts: Parts) -> None:
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

    def _turn(self, queue: str, until: float) -> Turn | None:
        if time.monotonic() > until or self._parts.closing():
            return None
        return Turn(queue, self._parts.worker, self._parts.lease_seconds)

    def _attempt(self, claim: Claim, turn: Callable[[str], Turn | None]) -> Claim | None:
        """Run one attempt to its end; return the next claim, if one was taken with it."""
        logger.info(Step.EXECUTION_PICKED_UP, attempt=claim.lease.attempt)
        began = time.monotonic()
        plan = self._parts.plans.of_versions(claim.task_version_id, claim.agent_version_id)
        attempt = self._open(claim, plan)
        with self._parts.active.running(attempt):
            outcome = self._run(attempt, claim, plan)
            if outcome is None:
                logger.warning(Step.EXECUTION_LEASE_LOST, attempt=claim.lease.attempt)
                return None
            notes = self._parts.notebook.last_page(attempt)
            finished = self._parts.finish(
                claim, outcome, notes, turn(claim.queue), has_session=attempt.has_session
            )
        _report(claim, outcome, finished.status, time.monotonic() - began)
        if finished.status is not None and finished.status.terminal:
            attempt.tidy()
            if attempt.spoke:
                self._parts.reporting.later(claim.lease.execution_id, _correlation(claim))
        return finished.claim

    def _open(self, claim: Claim, plan: Plan) -> Attempt:
        return Attempt(
            claim.lease,
            workdir=self._parts.workdirs / str(claim.lease.execution_id),
            deadline=time.monotonic() + plan.task.limits.hard_seconds,
            correlation=_correlation(claim),
            on_delta=self._parts.live.delta,
        )

    def _prepare(self, claim: Claim, plan: Plan) -> Job:
        return Job(
            execution_id=claim.lease.execution_id,
            attempt=claim.lease.attempt,
            task_name=plan.task_name,
            agent_name=plan.agent_name,
            agent=plan.agent,
            prompt=compiled(plan.task.prompt).render(claim.variables),
            variables=claim.variables,
            output_schema=plan.task.output_schema,
            limits=plan.task.limits,
            options=claim.options,
            owner_id=claim.owner_id,
            task_id=claim.task_id,
            budget=claim.options.budget or plan.task.budget,
            session=self._parts.backing.conversations.of(claim),
        )

    def _run(self, attempt: Attempt, claim: Claim, plan: Plan) -> Outcome | None:
        """Run the agent to its outcome; None means that the lease was lost."""
        try:
            job = self._prepare(claim, plan)
            runner = self._parts.runners.get(job.agent)
            attempt.back(self._parts.backing, job, runner)
            running = self._parts.loop.start(_within_soft_limit(runner.run(job, attempt), job))
            return self._wait(attempt, running)
        except ProviderRateLimitedError as error:
            return self._sent_away(error, attempt, claim, plan)
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - agents raise anything
            return _ending(error, attempt, claim, plan)

    def _sent_away(
        self, error: ProviderRateLimitedError, attempt: Attempt, claim: Claim, plan: Plan
    ) -> Outcome | None:
        """Tell what an attempt came to whose provider asks to slow down."""
        played = claim.options.cassette_id is not None
        parked = self._parts.backing.admission.sent_away(claim.lease, error, played=played)
        if parked is None or not self._parts.runners.get(plan.agent).resumable:
            return _ending(error, attempt, claim, plan)
        return _ending(MustWaitError(parked), attempt, claim, plan)

    def _wait(self, attempt: Attempt, running: Running[Completed | Parked]) -> Completed | Parked:
        attempt.on_stop(lambda: running.cancel(_WIND_UP_SECONDS))
        if not running.wait(attempt.seconds_left):
            attempt.stop(StopReason.HARD_LIMIT)
            if not running.wait(_WIND_UP_SECONDS + 1):
                running.abandon()
                if self._parts.loop.renew():
                    logger.critical("agent.blocks_loop", hint="blocking work: use a plain function")
        return running.result()


async def _within_soft_limit(work: Awaitable[Completed | Parked], job: Job) -> Completed | Parked:
    limit = job.limits.soft_seconds
    scope = asyncio.timeout(limit)
    try:
        async with scope:
            return await work
    except TimeoutError as error:
        if not scope.expired():
            raise
        raise SoftTimeLimit(f"The attempt ran past its soft limit of {limit:g} s.") from error


def _ending(error: BaseException, attempt: Attempt, claim: Claim, plan: Plan) -> Outcome | None:
    """Tell what an attempt came to whose agent raised, by itself or because it was stopped."""
    if isinstance(error, LeftBehindError):
        logger.critical("agent.left_behind", agent=plan.agent_name, reason=attempt.stop_reason)
    match attempt.stop_reason:
        case StopReason.LEASE_LOST:
            return None
        case StopReason.CANCELLED:
            return Stopped()
        case StopReason.SHUTDOWN:
            return HandedBack()
        case StopReason.HARD_LIMIT:
            limit = plan.task.limits.hard_seconds
            error = HardTimeLimitError(f"The attempt was stopped at its hard limit of {limit:g} s.")
        case None if isinstance(error, MustWaitError):
            return error.parked
        case None if isinstance(error, asyncio.CancelledError):
            error = RetryableError("The agent cancelled itself.")
    return outcome_of(
        error, plan.task.retry, attempt=claim.lease.attempt, retry_count=claim.retry_count
    )


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
