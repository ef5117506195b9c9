"""Runs attempts that need no slot: coroutines that only wait.

A slot of Celery is held by what needs processor time or a process. An attempt that only waits has
one of `places` instead, so its slot takes the next message at once. If all places are taken, the
attempt keeps its slot until a place is free or it ends: a message that was taken never waits for
another execution, and a busy worker takes none.

The ends of such attempts gather while the write before them waits for the disk, and are written
together with the claims of as many further executions, each of which has its place already.
"""

import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from uuid import uuid4

import structlog

from celeriac.db.executions.leases import PendingWrites
from celeriac.db.executions.lifecycle import Ending, MoreClaims, transition_of
from celeriac.domain.errors import DatabaseUnavailableError
from celeriac.domain.executions.correlation import correlation_of
from celeriac.domain.executions.model import Claim, Outcome, WorkerIdentity
from celeriac.domain.executions.states import Status
from celeriac.kit.threads import Threads
from celeriac.logs import Step, bound
from celeriac.services.executions.agent_runs import AgentRuns, Running
from celeriac.services.executions.attempt import AttemptRegistry, StopReason
from celeriac.services.executions.fair_turns import FairTurns
from celeriac.services.executions.finish import Finish

logger = structlog.get_logger(__name__)

_MOST_ENDS = 32
"""Ends that one statement writes."""

_MOST_CLAIMS = 16
"""Executions that are claimed with a message, or after it."""

_THREADS = 16
"""They start agents and write ends; none waits for an agent."""

_LOOK_SECONDS = 0.25
"""How late a hard limit, or the end of the time to clean up, may be noticed."""


@dataclass(frozen=True, slots=True)
class _Ended:
    """An attempt with its outcome, ready to be stored."""

    running: Running
    outcome: Outcome
    batches: Sequence[PendingWrites]


class Detached:
    """The attempts of a process that run without a slot. Safe to share between threads."""

    def __init__(
        self,
        runs: AgentRuns,
        finish: Finish,
        attempts: AttemptRegistry,
        *,
        places: int,
        worker: Callable[[], WorkerIdentity],
        claim_more: Callable[[str, MoreClaims], list[Claim]],
        turns: FairTurns,
        send_soon: Callable[[], None],
        takes_nothing: Callable[[], bool],
    ) -> None:
        """Have at most `places` of them, besides those that keep their slots."""
        self._runs = runs
        self._finish = finish
        self._attempts = attempts
        self._worker = worker
        self._claim_more = claim_more
        self._turns = turns
        self._send_soon = send_soon
        self._takes_nothing = takes_nothing
        self._threads = Threads("attempts", _THREADS, may_wait=True)
        self._lock = threading.Lock()
        self._free = places
        self._running: set[Running] = set()
        self._keeping: dict[Running, None] = {}
        """Those that keep a slot, the longest first."""
        self._done: deque[Running] = deque()
        self._collecting = False
        self._closed = threading.Event()
        threading.Thread(target=self._watch, name="attempt-watch", daemon=True).start()

    def __len__(self) -> int:
        """Return how many run without a slot."""
        with self._lock:
            return len(self._running) - len(self._keeping)

    def close(self) -> None:
        """End the threads; nothing may run any more."""
        self._closed.set()
        self._threads.shutdown(wait=False, cancel_futures=True)

    # from slots

    def claim(
        self,
        with_more: Callable[[MoreClaims], tuple[Claim | None, list[Claim]]],
        *,
        otherwise: Callable[[], Claim | None],
        until: float,
    ) -> Claim | None:
        """Return the claim of a message; claim and start what has a place with it.

        Calls `otherwise` if there is no free place, or no agent is known to need none.
        """
        asked = self._ask(_MOST_CLAIMS, leave=1)
        if asked is None:
            return otherwise()
        claims: list[Claim] = []
        with self._attempts.claiming(asked.tokens):
            try:
                own, claims = with_more(asked)
                self._found(claims)
                begun = [self._begin(each, until) for each in claims]
            finally:
                self._give_back(len(asked.tokens) - len(claims))
        self._start(begun, more=len(claims) == len(asked.tokens))
        return own

    def run(self, running: Running) -> None:
        """Let a started attempt go on without its slot; return when the slot is free.

        That is at once if there is a free place.
        """
        slot = threading.Event()
        with self._lock:
            self._running.add(running)
            if self._free > 0:
                self._free -= 1
                slot.set()
            else:
                running.slot = slot
                self._keeping[running] = None
        self._follow(running)
        slot.wait()

    # places

    def _ask(self, most: int, *, leave: int = 0) -> MoreClaims | None:
        """Take up to `most` places for claims, but `leave` some; None if nothing can be claimed."""
        versions = self._runs.waiting_versions
        if not versions or self._takes_nothing():
            return None
        with self._lock:
            count = max(min(self._free - leave, most), 0)
            self._free -= count
        if count == 0:
            return None
        tokens, shares = [uuid4() for _ in range(count)], self._turns.known(lambda _: count)
        return MoreClaims(self._worker(), tokens, versions, shares)

    def _found(self, claims: Sequence[Claim]) -> None:
        """Note that executions have waited: those that were claimed without a message."""
        if claims:
            self._turns.found(claims[0].queue)

    def _give_back(self, count: int) -> None:
        for _ in range(count):
            with self._lock:
                slot = self._freed()
            if slot is not None:
                slot.set()

    def _freed(self) -> threading.Event | None:
        """Give a free place to who has kept a slot longest; return the slot. Needs the lock."""
        if not self._keeping:
            self._free += 1
            return None
        running = next(iter(self._keeping))
        del self._keeping[running]
        slot, running.slot = running.slot, None
        return slot

    def _leave(self, running: Running, following: Running | None = None) -> None:
        """Give the place or slot of an attempt that has ended to `following`, or back."""
        with self._lock:
            self._running.discard(running)
            keeps = running in self._keeping
            slot = running.slot
            if following is not None:
                self._running.add(following)
                if keeps:
                    del self._keeping[running]
                    self._keeping[following] = None
                    following.slot = slot
                return
            if keeps:
                del self._keeping[running]
            else:
                slot = self._freed()
        if slot is not None:
            slot.set()

    # starting

    def _begin(self, claim: Claim, until: float) -> Running:
        """Register a claim that has a place."""
        with bound(correlation_of(claim)):
            running = self._runs.begin(claim, until)
        with self._lock:
            self._running.add(running)
        return running

    def _start(self, begun: Sequence[Running], *, more: bool = False) -> None:
        """Start attempts in another thread; then claim `more` of the queue, if there are any."""
        if not begun:
            return
        for each in begun:
            if each.claim.session_id is not None:  # reads it; the others must not wait for that
                self._submit(lambda each=each: self._start_all([each]))  # type: ignore[misc]
        quick = [each for each in begun if each.claim.session_id is None]
        self._submit(lambda: self._start_all(quick, fill=begun[0] if more else None))

    def _submit(self, work: Callable[[], None]) -> None:
        try:
            self._threads.submit(_logged, work)
        except (RuntimeError, MemoryError):  # no thread can be started now
            _logged(work)

    def _start_all(self, begun: Sequence[Running], fill: Running | None = None) -> None:
        for running in begun:
            try:
                with bound(correlation_of(running.claim)):
                    self._runs.start(running)
                self._follow(running)
            except BaseException:
                self._drop(running)
                logger.exception("attempts.not_started", **correlation_of(running.claim))
        if fill is not None:
            self._fill(fill.claim.queue, fill.until)

    def _fill(self, queue: str, until: float) -> None:
        """Claim and start further executions of a queue while there are places."""
        asked = self._ask(_MOST_CLAIMS, leave=1) if time.monotonic() < until else None
        if asked is None:
            return
        claims: list[Claim] = []
        begun: list[Running] = []
        with self._attempts.claiming(asked.tokens):
            try:
                claims = self._claim_more(queue, asked)
                self._found(claims)
                begun = [self._begin(each, until) for each in claims]
            except DatabaseUnavailableError as error:
                logger.warning("database.unavailable", code=error.code, error=error.message)
            finally:
                self._give_back(len(asked.tokens) - len(claims))
        self._start(begun, more=len(claims) == len(asked.tokens))

    def _follow(self, running: Running) -> None:
        """Notice the end of a started attempt."""
        if running.task is None:
            self._ended(running)
        else:
            running.task.on_end(lambda: self._ended(running))

    # ending

    def _ended(self, running: Running) -> None:
        with self._lock:
            self._done.append(running)
        self._collect_soon()

    def _collect_soon(self) -> None:
        with self._lock:
            if self._collecting or not self._done:
                return
            self._collecting = True
        try:
            self._threads.submit(self._collect)
        except (RuntimeError, MemoryError) as error:  # `_watch` tries again
            self._collecting = False
            if not self._closed.is_set():
                logger.exception("attempts.no_thread", error=str(error))

    def _collect(self) -> None:
        """Write what has ended, group after group; only one thread does so."""
        while True:
            with self._lock:
                count = min(len(self._done), _MOST_ENDS)
                group = [self._done.popleft() for _ in range(count)]
                if not group:
                    self._collecting = False
                    return
            try:
                self._end(group)
            except BaseException:
                logger.exception("attempts.not_ended")
                for running in group:
                    self._drop(running)

    def _drop(self, running: Running) -> None:
        """Forget an attempt that can't be ended: the heartbeat hands it back."""
        self._attempts.remove(running.attempt)
        if running in self._running:
            self._leave(running)

    def _end(self, group: Sequence[Running]) -> None:
        together: dict[object, list[_Ended]] = defaultdict(list)
        for running in group:
            if not self._runs.is_simple(running):
                self._submit(lambda running=running: self._end_alone(running))  # type: ignore[misc]
                continue
            ended = self._outcome(running)
            if ended is None:
                continue
            if ended.batches or running.attempt.has_rows or not isinstance(ended.outcome, Ending):
                self._submit(lambda ended=ended: self._store_alone(ended))  # type: ignore[misc]
                continue
            claim = running.claim
            key = transition_of(ended.outcome), claim.queue, claim.is_counted
            together[key].append(ended)
        for each in together.values():
            self._store(each)

    def _outcome(self, running: Running) -> _Ended | None:
        with bound(correlation_of(running.claim)):
            outcome = self._runs.outcome(running)
            if outcome is not None:
                return _Ended(running, outcome, running.attempt.last_batches())
            logger.warning(Step.EXECUTION_LEASE_LOST, attempt=running.claim.lease.attempt)
        self._drop(running)
        return None

    def _end_alone(self, running: Running) -> None:
        ended = self._outcome(running)
        if ended is not None:
            self._store_alone(ended)

    def _store_alone(self, ended: _Ended) -> None:
        running, status, outcome = ended.running, None, ended.outcome
        try:
            with bound(correlation_of(running.claim)):
                finished = self._finish(
                    running.claim,
                    outcome,
                    ended.batches,
                    None,
                    has_rows=running.attempt.has_rows,
                )
                self._runs.ended(running, finished.instead or outcome, finished.status)
        except Exception:
            logger.exception("execution.not_ended", **correlation_of(running.claim), status=status)
        finally:
            self._drop(running)

    def _store(self, group: Sequence[_Ended]) -> None:
        """Store outcomes that can be written together, and claim as many executions."""
        now, queue = time.monotonic(), group[0].running.claim.queue
        wanting = [] if self._takes_nothing() else [e for e in group if e.running.until > now]
        versions = self._runs.waiting_versions
        more = None
        if wanting and versions:
            shares = self._turns.next(queue, len(wanting))
            more = MoreClaims(self._worker(), [uuid4() for _ in wanting], versions, shares)
        with ExitStack() as stack:
            if more is not None:
                stack.enter_context(self._attempts.claiming(more.tokens))
            written = self._finish.group(
                [
                    (e.running.claim.lease, e.outcome)
                    for e in group
                    if isinstance(e.outcome, Ending)
                ],
                queue,
                more,
                counted=group[0].running.claim.is_counted,
            )
            claims = list(written.claims)
            self._found(claims)
            missing = [e for e in group if e.running.claim.lease.execution_id not in written.status]
            if missing and written.lost and more is not None:
                kept = stack.pop_all()
                self._submit(lambda: self._store_missing(missing, more, kept))
            else:
                for each in missing:
                    self._submit(lambda each=each: self._store_alone(each))  # type: ignore[misc]
            begun: list[Running] = []
            try:
                for each in group:
                    status = written.status.get(each.running.claim.lease.execution_id)
                    if status is not None:
                        begun += self._stored(each, status, claims)
            finally:
                self._start(begun)  # whatever failed: what is registered must run
        if len(wanting) < len(group) and self._turns.waits(queue):
            # places that claim nothing more get messages now, not in the keeper's next round
            self._send_soon()

    def _stored(self, ended: _Ended, status: Status, claims: list[Claim]) -> list[Running]:
        """Forget a stored attempt; give its place to the next claim and return that."""
        running = ended.running

        def tidy() -> None:
            with bound(correlation_of(running.claim)):
                self._runs.ended(running, ended.outcome, status)

        if running.claim.run_id is None:
            tidy()
        else:
            self._submit(tidy)  # it moves the run of a workflow on, in the database
        if not claims:
            self._leave(running)
            return []
        claim = claims.pop(0)
        with bound(correlation_of(claim)):
            following = self._runs.begin(claim, running.until)
        self._leave(running, following)
        return [following]

    def _store_missing(
        self, missing: Sequence[_Ended], more: MoreClaims, tokens: ExitStack
    ) -> None:
        """Store what a statement whose answer was lost may have stored, then find its claims.

        In this order: each write waits for the rows that the statement still has locked.
        """
        with tokens:
            for each in missing:
                self._store_alone(each)
            begun = []
            for claim in self._finish.found(more):
                with self._lock:
                    self._free -= 1  # its place was given back; it may be one too many
                begun.append(self._begin(claim, 0.0))
        self._start(begun)

    # limits

    def _watch(self) -> None:
        while not self._closed.wait(_LOOK_SECONDS):
            try:
                self._look()
            except Exception:  # the thread must look again
                logger.exception("worker.thread_failed", thread="attempt-watch")

    def _look(self) -> None:
        self._collect_soon()
        with self._lock:
            running = list(self._running)
        now = time.monotonic()
        for each in running:
            if each.task is None:
                continue
            if each.task.is_overdue:
                each.task.wait(0)
            elif now >= each.look_at:
                limits = each.attempt.time_limits
                if limits.hard_passed:
                    each.attempt.stop(StopReason.HARD_LIMIT)
                each.look_at = now + min(limits.next_look, 1.0)


def _logged(work: Callable[[], None]) -> None:
    try:
        work()
    except Exception:  # nobody waits for it
        logger.exception("worker.thread_failed", thread="attempts")
