"""Stores the outcome of an attempt, once."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from uuid import UUID

import structlog

from celeriac.db.engine import Database, first_line, refuses
from celeriac.db.executions import leases, lifecycle
from celeriac.db.executions.leases import PendingWrites
from celeriac.db.executions.lifecycle import (
    Ending,
    EndValues,
    Finished,
    GroupFinished,
    MoreClaims,
    NextClaim,
)
from celeriac.domain.errors import CeleriacError, ResultNotStorableError
from celeriac.domain.executions.model import (
    Claim,
    Failed,
    Failure,
    HandedBack,
    Lease,
    Outcome,
    Parked,
    Retry,
)
from celeriac.domain.executions.states import Status
from celeriac.kit.json_types import storable_text
from celeriac.services.executions.event_writer import calls_of
from celeriac.services.executions.raised import describe
from celeriac.services.ports import LiveEvents
from celeriac.services.retrying import is_unavailable, retry_while_unavailable

logger = structlog.get_logger(__name__)

_DATABASE_SECONDS = 600.0
"""How long a result waits for the database. No lease can be taken while it is unavailable."""


_MOST_TOGETHER = 200_000
"""Characters of an outcome that is stored together with others."""


@dataclass(frozen=True, slots=True)
class Written:
    """What a statement for several attempts has stored and claimed."""

    status: Mapping[UUID, Status]
    """The statuses of the attempts that it has stored."""
    claims: Sequence[Claim]
    lost: bool
    """Whether an answer was lost: more may have been stored and claimed."""


class Finish:
    """Stores outcomes of attempts."""

    def __init__(
        self,
        database: Database,
        live: LiveEvents,
        made_due: Callable[[], None] = lambda: None,
    ) -> None:
        """Call `made_due` after an end that has made other executions due.

        That are a parent that waited for its last child, children that their step held back, and an
        execution that was parked for what had happened already. Without it the keeper sends them.
        """
        self._database = database
        self._live = live
        self._made_due = made_due

    def __call__(
        self,
        claim: Claim,
        outcome: Outcome,
        batches: Sequence[PendingWrites],
        next_claim: NextClaim | None,
        *,
        has_rows: bool = False,
    ) -> Finished:
        """Store `outcome` and the last batches; with `next_claim`, claim a pending execution too.

        All in one transaction. `has_rows` says that the attempt has stored questions or a session:
        a statement that does so may still be at work, and the end waits for it. The status is None
        if the lease was lost: nothing was written. Raises DatabaseUnavailableError after ten
        minutes without the database; the keeper then rescues the execution. A try whose answer was
        lost is recognised. An outcome that the database refuses because of its data is stored as a
        failure instead; other errors are retried.
        """
        ending = _Ending(claim, outcome, batches, has_rows)
        try:
            finished = self._patiently(ending, next_claim)
        except Exception as error:
            if not refuses(error):
                raise
            kind, reason = type(error).__name__, first_line(error)
            logger.error("execution.end_refused", kind=kind, error=reason)  # noqa: TRY400 - the trace holds the values
            finished = self._instead(ending, next_claim, error)
        changed = [claim.lease.execution_id] if finished.status is not None else []
        if finished.claim is not None:
            changed.append(finished.claim.lease.execution_id)
        # `again`: what the first try has made due is unknown
        self._after(changed, made_due=finished.made_due or finished.again)
        return finished

    def group(
        self,
        endings: Sequence[tuple[Lease, Ending]],
        queue: str,
        more: MoreClaims | None,
        *,
        counted: bool = True,
    ) -> Written:
        """Store outcomes of the same transition; with `more`, claim executions of `queue` too.

        `counted` says whether something may count their ends (`Claim.is_counted`). Each is guarded
        by its own lease. Nothing is raised for one of them: what is not stored must be stored
        alone. If an answer was lost, the outcomes are sent again, without claims, for up to ten
        minutes.
        """
        ends = [end for lease, outcome in endings if (end := _end_values(lease, outcome))]
        if not ends:
            return Written({}, (), lost=False)
        lost = False
        try:
            done = self._send(ends, queue, more, counted=counted)
        except Exception as error:  # noqa: BLE001 - each is stored alone
            kind, reason = type(error).__name__, first_line(error)
            logger.warning("execution.ends_repeated", count=len(ends), kind=kind, error=reason)
            if not is_unavailable(error):
                return Written({}, (), lost=not refuses(error))
            lost = True
            done = self._send_again(ends)
        changed = [*done.status, *(claim.lease.execution_id for claim in done.claims)]
        self._after(changed, made_due=done.made_due or lost)
        return Written(done.status, done.claims, lost)

    def _send(
        self,
        ends: Sequence[EndValues],
        queue: str = "",
        more: MoreClaims | None = None,
        *,
        counted: bool = True,
    ) -> GroupFinished:
        with self._database.autocommit() as connection:
            return lifecycle.finish_group(connection, ends, queue, more, counted=counted)

    def _send_again(self, ends: Sequence[EndValues]) -> GroupFinished:
        try:
            return retry_while_unavailable(lambda: self._send(ends), seconds=_DATABASE_SECONDS)
        except Exception as error:  # noqa: BLE001 - each is stored alone
            logger.warning("execution.ends_repeated", count=len(ends), error=first_line(error))
            return GroupFinished({})

    def found(self, more: MoreClaims) -> Sequence[Claim]:
        """Return what a statement has claimed whose answer was lost."""

        def find() -> list[Claim]:
            with self._database.autocommit() as connection:
                return lifecycle.find_claims(connection, more.tokens, more.worker.id)

        return retry_while_unavailable(find, seconds=_DATABASE_SECONDS)

    def _patiently(self, ending: "_Ending", next_claim: NextClaim | None) -> Finished:
        try:
            return self._once(ending, next_claim)
        except Exception as error:
            if not _may_pass(error):
                raise
        return retry_while_unavailable(
            lambda: self._again(ending, next_claim), seconds=_DATABASE_SECONDS, on=_may_pass
        )

    def _once(self, ending: "_Ending", next_claim: NextClaim | None) -> Finished:
        claim, outcome = ending.claim, ending.outcome
        if ending.is_one_statement:
            with self._database.autocommit() as connection:
                return lifecycle.finish(
                    connection, claim.lease, outcome, next_claim, counted=claim.is_counted
                )
        with self._database.transaction() as connection:
            for batch in ending.batches:
                leases.store_batch(connection, [batch])
            if ending.has_rows and not ending.batches:  # which have locked the row
                lifecycle.hold(connection, [claim.lease.execution_id])
            return lifecycle.finish(connection, claim.lease, outcome, next_claim)

    def _again(self, ending: "_Ending", next_claim: NextClaim | None) -> Finished:
        """Repeat the write, then find what the first try claimed.

        In this order: the server may still execute the first try, which locks the row until its
        claim is visible. Claims nothing now: it could claim what the first try made pending.
        """
        finished = self._once(ending, None)
        if next_claim is None or (finished.status is not None and not finished.again):
            return finished  # the first try wrote nothing, and can't any more
        with self._database.autocommit() as connection:
            return replace(
                finished,
                claim=lifecycle.find_claim(connection, next_claim.token, next_claim.worker.id),
            )

    def _instead(
        self, ending: "_Ending", next_claim: NextClaim | None, refused: Exception
    ) -> Finished:
        """End an attempt whose outcome or last batches the database refuses."""
        alone = replace(ending, batches=())
        if ending.batches:
            for batch in ending.batches:
                self._store_alone(batch)
            try:
                return self._patiently(alone, next_claim)  # only a batch was at fault
            except Exception as error:
                if not refuses(error):
                    raise
                refused = error
        outcome = _storable(ending.outcome, refused, attempt=ending.claim.lease.attempt)
        return replace(
            self._patiently(replace(alone, outcome=outcome), next_claim), instead=outcome
        )

    def _store_alone(self, batch: PendingWrites) -> None:
        """Store as much of a batch as possible: all, or its model calls, or only its number."""
        for part in (batch, calls_of(batch), PendingWrites(batch.lease, number=batch.number)):
            if part is None:
                continue
            try:
                retry_while_unavailable(
                    partial(self._store_batch, part), seconds=_DATABASE_SECONDS, on=_may_pass
                )
            except Exception as error:
                if not refuses(error):
                    raise
                logger.error("event_writer.refused", error=first_line(error))  # noqa: TRY400 - as above
            else:
                return

    def _store_batch(self, batch: PendingWrites) -> None:
        with self._database.autocommit() as connection:
            leases.store_batch(connection, [batch])

    def _after(self, changed: Sequence[UUID], *, made_due: bool) -> None:
        try:
            if made_due:
                self._made_due()
            self._live.changed(changed)
        except Exception:  # the outcome is stored, and the next claim must not be lost
            logger.exception("execution.not_published")


def _end_values(lease: Lease, outcome: Ending) -> EndValues | None:
    """Return how an outcome is stored; None if it must be stored alone."""
    try:
        end = lifecycle.end_values(lease, outcome)
    except Exception:  # noqa: BLE001 - alone, it is stored as a failure
        return None
    return end if end.size <= _MOST_TOGETHER else None


def _may_pass(error: BaseException) -> bool:
    """Whether the same write may succeed later: not if the data was refused."""
    if isinstance(error, CeleriacError):
        return is_unavailable(error)
    return isinstance(error, Exception) and not refuses(error)


@dataclass(frozen=True, slots=True)
class _Ending:
    """What is to be written."""

    claim: Claim
    outcome: Outcome
    batches: Sequence[PendingWrites]
    has_rows: bool

    @property
    def is_one_statement(self) -> bool:
        """Whether nothing but the outcome is to be written, as for most executions."""
        return not (self.batches or self.has_rows or isinstance(self.outcome, Parked))


def _storable(outcome: Outcome, refused: Exception, *, attempt: int) -> Outcome:
    """Return what is stored instead of an outcome that the database refuses."""
    match outcome:
        case Retry(failure, delay):
            return Retry(_bare(failure, attempt), delay)
        case Failed(failure):
            return Failed(_bare(failure, attempt))
        case HandedBack(_, delay):
            return HandedBack(None, delay)
    error = ResultNotStorableError(
        f"The result can't be stored: {first_line(refused)}. Return plain JSON."
    )
    return Failed(describe(error, attempt=attempt).failure)


def _bare(failure: Failure, attempt: int) -> Failure:
    kind = str(failure.details.get("type", failure.code))
    details = {"type": storable_text(kind), "traceback": None, "attempt": attempt}
    return Failure(storable_text(failure.code), storable_text(failure.message), details)
