"""Runs the execution that a message names: claim, prepare, run the agent, finish."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from uuid import UUID

import structlog

from celeriac.db import workers
from celeriac.db.engine import Database
from celeriac.db.executions import lifecycle, pauses
from celeriac.db.executions.lifecycle import MoreClaims, NextClaim
from celeriac.domain.errors import (
    DatabaseUnavailableError,
    LeaseExpiredError,
    WorkerMisconfiguredError,
)
from celeriac.domain.executions.correlation import correlation_of
from celeriac.domain.executions.model import Claim, Message, WorkerIdentity
from celeriac.logs import Step, bound
from celeriac.services.executions.agent_runs import DATABASE_SECONDS, AgentRuns, Running
from celeriac.services.executions.attempt import AttemptRegistry, ClaimTokens, Registration
from celeriac.services.executions.detached import Detached
from celeriac.services.executions.fair_turns import FairTurns
from celeriac.services.executions.finish import Finish
from celeriac.services.retrying import retry_while_unavailable

logger = structlog.get_logger(__name__)

_LEASE_WAIT_SECONDS = 1.0
"""How long one try of a claim waits for the heartbeat to renew the lease of this process."""

_NEXT_CLAIM_SECONDS = 1.0
"""How long a slot claims further executions by itself. Messages in the broker wait meanwhile."""

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

    def with_more(
        self, message: Message, token: UUID, more: MoreClaims
    ) -> tuple[Claim | None, list[Claim]]:
        """Claim the attempt as a call does, and with it others of its queue.

        If the answer is lost, only the attempt is claimed: the heartbeat hands back what else the
        first try has claimed.
        """
        try:
            self._registration.wait(_LEASE_WAIT_SECONDS)
            with self._database.autocommit() as connection:
                if self._registration.paused:
                    pauses.give_back(connection, message)
                    return None, []
                return lifecycle.claim_group(connection, message, token, more)
        except LeaseExpiredError:
            self._registration.expired(more.worker)
        except DatabaseUnavailableError:
            pass
        found = retry_while_unavailable(
            lambda: self._claim_again(message, token), seconds=DATABASE_SECONDS
        )
        return found, []

    def more(self, queue: str, more: MoreClaims) -> list[Claim]:
        """Claim executions of `queue`. Raises DatabaseUnavailableError.

        If the answer is lost, the heartbeat hands back what was claimed.
        """
        with self._database.autocommit() as connection:
            return lifecycle.claim_more(connection, queue, more)

    @property
    def worker(self) -> WorkerIdentity:
        """The identity of the process."""
        return self._registration.worker

    def _claim(self, message: Message, token: UUID) -> Claim | None:
        worker = self._registration.wait(_LEASE_WAIT_SECONDS)
        try:
            with self._database.autocommit() as connection:
                if self._registration.paused:
                    pauses.give_back(connection, message)
                    return None
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
                hostname=self.worker.node,
                code=WorkerMisconfiguredError.code,
                most=MOST_HAND_BACKS,
                within_seconds=self._lease_seconds,
            )


@dataclass(frozen=True, slots=True)
class Execute:
    """Runs attempts in this process. Safe to call from many threads at once."""

    claim: ClaimAttempt
    finish: Finish
    runs: AgentRuns
    attempts: AttemptRegistry
    turns: FairTurns
    takes_nothing: Callable[[], bool]
    """Whether this process may claim only what it has messages of: it ends, or is paused."""
    detached: Detached | None = None
    """Runs attempts that need no slot."""

    def __call__(self, message: Message) -> int:
        """Run the attempt that `message` names; return how many attempts were run in this slot.

        0 for a duplicate. More than 1 while executions of the same queue are pending: within its
        first second a slot claims the next one in the statement that finishes the one before. An
        attempt that needs no slot goes on after the return.
        Raises DatabaseUnavailableError while the database is away; nothing is lost by that.
        """
        until = time.monotonic() + _NEXT_CLAIM_SECONDS
        count = 0
        with self.attempts.claiming() as tokens:
            claim = self._claim(message, tokens.new(), until)
            if claim is None:
                logger.info(
                    "execution.dropped", execution_id=message.execution_id, attempt=message.attempt
                )
            while claim is not None:
                queue = claim.queue
                with bound(correlation_of(claim)):
                    claim = self.run_claim(claim, tokens, until)
                if claim is not None:
                    self.turns.found(queue)
                count += 1
        return count

    def _claim(self, message: Message, token: UUID, until: float) -> Claim | None:
        """Claim the attempt of a message, and others that need no slot with it."""
        if self.detached is None or self.takes_nothing():
            return self.claim(message, token)
        return self.detached.claim(
            lambda more: self.claim.with_more(message, token, more),
            otherwise=lambda: self.claim(message, token),
            until=until,
        )

    def _next_claim(self, queue: str, tokens: ClaimTokens, until: float) -> NextClaim | None:
        if time.monotonic() > until or self.takes_nothing():
            return None
        shares = self.turns.next(queue, 1)
        return NextClaim(queue, self.claim.worker, tokens.new(), shares)

    def run_claim(self, claim: Claim, tokens: ClaimTokens, until: float) -> Claim | None:
        """Run one attempt to its end; return the next claim, if finishing made one.

        None is claimed after `until`, in `time.monotonic()` seconds. Returns earlier if the attempt
        needs no slot: it then goes on without this thread.
        """
        running = self.runs.begin(claim, until)
        try:
            self.runs.start(running)
            if self.detached is not None and self.runs.only_waits(running):
                self.detached.run(running)
                return None
        except BaseException:
            self.attempts.remove(running.attempt)
            raise
        return self._end(running, tokens, until)

    def _end(self, running: Running, tokens: ClaimTokens, until: float) -> Claim | None:
        claim, attempt = running.claim, running.attempt
        try:
            self.runs.wait(running)
            outcome = self.runs.outcome(running)
            if outcome is None:
                logger.warning(Step.EXECUTION_LEASE_LOST, attempt=claim.lease.attempt)
                running.trace.end("lease_lost", "lease_lost")
                return None
            finished = self.finish(
                claim,
                outcome,
                attempt.last_batches(),
                self._next_claim(claim.queue, tokens, until),
                has_rows=attempt.has_rows,
            )
        finally:
            self.attempts.remove(attempt)
        self.runs.ended(running, finished.instead or outcome, finished.status)
        return finished.claim
