"""Stores the outcome of an attempt, once, and turns exceptions into outcomes.

Exceptions of agents have unknown classes: reading their text or attributes runs code of users,
which may raise anything. `describe` reads each once, validates it, and returns plain values.
"""

import math
import random
import traceback
from asyncio import CancelledError
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
from celeriac.domain.errors import (
    BusyError,
    CeleriacError,
    DatabaseTimeoutError,
    DatabaseUnavailableError,
    ExecutionError,
    InvalidInputError,
    ObjectStoreError,
    PermanentError,
    ProviderError,
    ProviderRateLimitedError,
    ResultNotStorableError,
    UnavailableError,
    WorkerMisconfiguredError,
)
from celeriac.domain.executions.model import (
    Claim,
    Failed,
    Failure,
    HandedBack,
    Lease,
    MustWaitError,
    Outcome,
    Parked,
    Retry,
)
from celeriac.domain.executions.states import Status
from celeriac.domain.tasks import GiveUp, RetryPolicy, decide
from celeriac.kit.json_types import JsonObject, loads, storable_text
from celeriac.kit.untrusted import is_a, read_json_object, read_text, result_or, type_name
from celeriac.logs.redact import redact_text
from celeriac.services.executions.event_writer import calls_of
from celeriac.services.ports import LiveEvents
from celeriac.services.retrying import is_unavailable, retry_while_unavailable

MAX_MESSAGE = 2_000
MAX_TRACEBACK = 20_000
MAX_DETAILS = 200_000
"""The limit of an error's details, in characters of JSON; larger ones are left out."""

_MAX_NAME = 200
_MAX_CHAIN = 100


@dataclass(frozen=True, slots=True)
class Raised:
    """An exception of an agent, as plain values."""

    failure: Failure
    retryable: bool
    cancelled: bool
    """Whether it was a cancellation, by Celeriac or by the agent itself."""
    parked: Parked | None
    """How the attempt must be parked, if its context requires it."""
    retry_after: float | None
    """The provider's Retry-After, in seconds."""
    not_its_own: bool
    """Whether the fault is not the agent's: the process or the database was busy or unavailable for
    longer than the attempt could wait.

    False for a statement time-out: the statement may take too long every time.
    """
    worker_lacks: bool
    """Whether this worker lacks what the agent needs; another one may have it."""
    rate_limited: ProviderRateLimitedError | None
    """A copy of the error if the provider answered 429."""


def describe(error: BaseException, *, attempt: int) -> Raised:
    """Describe `error` for storage: stable code, message, type, traceback and attempt.

    Secrets in texts are masked as in logs. Never raises, but may block if the error's class does.
    """
    kind = type(error)
    details = _details(error)
    name = details.get("type")
    if not isinstance(name, str):
        name = type_name(kind)
    message = redact_text(read_text(lambda: str(error), MAX_MESSAGE))
    traceback_text = _traceback(error, f"{name}: {message}" if message else name)
    failure = Failure(
        code=_code(error),
        message=message or name,
        details={"traceback": traceback_text, **details, "type": name, "attempt": attempt},
    )
    return Raised(
        failure=failure,
        retryable=_retryable(error),
        cancelled=issubclass(kind, CancelledError),
        parked=error.parked if kind is MustWaitError else None,  # type: ignore[attr-defined]
        retry_after=_retry_after(error),
        not_its_own=is_a(error, BusyError)
        or is_a(error, ObjectStoreError)
        or (is_a(error, DatabaseUnavailableError) and not is_a(error, DatabaseTimeoutError)),
        worker_lacks=is_a(error, WorkerMisconfiguredError),
        rate_limited=_rate_limited(error, failure.message),
    )


def outcome_for(raised: Raised, policy: RetryPolicy, *, retry_count: int) -> Retry | Failed:
    """Return the outcome of an attempt whose agent raised an error.

    An `ExecutionError` says whether a retry may help; invalid input is never retried; anything else
    is.
    """
    failure = raised.failure
    decision = decide(
        policy,
        retry_count=retry_count,
        retryable=raised.retryable,
        spread=random.uniform(-1, 1),
        retry_after=raised.retry_after,
    )
    if isinstance(decision, GiveUp):
        details = {**failure.details, "gave_up": decision.reason}
        return Failed(Failure(failure.code, failure.message, details))
    return Retry(failure, decision.seconds)


def _code(error: BaseException) -> str:
    if is_a(error, InvalidInputError):
        return read_text(lambda: error.code, _MAX_NAME) or InvalidInputError.code
    if is_a(error, UnavailableError):
        return read_text(lambda: error.code, _MAX_NAME) or UnavailableError.code
    if not is_a(error, ExecutionError):
        return ExecutionError.code
    usual = PermanentError.code if is_a(error, PermanentError) else ExecutionError.code
    return read_text(lambda: error.code, _MAX_NAME) or usual


def _retryable(error: BaseException) -> bool:
    if not is_a(error, ExecutionError):
        return not is_a(error, InvalidInputError)
    usual = not is_a(error, PermanentError)
    said: object = result_or(lambda: error.retryable, usual)
    return said if isinstance(said, bool) else usual


def _rate_limited(error: BaseException, message: str) -> ProviderRateLimitedError | None:
    if not is_a(error, ProviderRateLimitedError):
        return None
    return ProviderRateLimitedError(
        message,
        retry_after=_retry_after(error),
        provider=read_text(lambda: error.provider, _MAX_NAME) or None,
        model=read_text(lambda: error.model, _MAX_NAME) or None,
    )


def _retry_after(error: BaseException) -> float | None:
    if not is_a(error, ProviderError):
        return None
    said: object = result_or(lambda: error.retry_after, None)
    if type(said) not in (int, float):
        return None
    seconds = result_or(lambda: float(said), -1.0)  # type: ignore[arg-type]
    return seconds if math.isfinite(seconds) and seconds >= 0 else None


def _details(error: BaseException) -> JsonObject:
    """Return the `details` of an error; agents may put anything there."""
    text = read_json_object(lambda: getattr(error, "details", {}), MAX_MESSAGE)
    if len(text) > MAX_DETAILS:
        return {"details_left_out": len(text)}
    plain: JsonObject = loads(text)
    return {
        name: redact_text(value) if isinstance(value, str) else value
        for name, value in plain.items()
    }


def _traceback(error: BaseException, last_line: str) -> str:
    """Format the traceback; only the last error if the chain is too long or can't be formatted.

    Formatting takes a millisecond for each error in the chain or in a group.
    """
    lines = result_or(lambda: None if _is_long(error) else traceback.format_exception(error), None)
    if lines is None:
        own: list[str] = result_or(lambda: traceback.format_tb(error.__traceback__), [])
        lines = ["Traceback (most recent call last):\n", *own, f"{last_line}\n"]
    return redact_text(storable_text(result_or(lambda: "".join(lines)[-MAX_TRACEBACK:], "")))


def _is_long(error: BaseException) -> bool:
    seen: set[int] = set()
    left = [error]
    while left:
        each = left.pop()
        if id(each) in seen:
            continue
        seen.add(id(each))
        grouped = each.exceptions if is_a(each, BaseExceptionGroup) else ()
        if len(seen) + len(grouped) > _MAX_CHAIN:
            return True
        left += [one for one in (each.__cause__, each.__context__, *grouped) if one is not None]
    return False


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
