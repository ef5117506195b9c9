"""The attempts that run in this process, and the identity under which it claims them."""

import asyncio
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from uuid import UUID, uuid4

from celeriac.db.executions.leases import PendingWrites
from celeriac.domain.artifacts import ArtifactOwner
from celeriac.domain.errors import LeaseExpiredError, LeaseLostError
from celeriac.domain.executions.model import Lease, WorkerIdentity
from celeriac.kit.files import Folder
from celeriac.kit.ids import uuid7
from celeriac.logs.masks import Masker
from celeriac.services.time_limits import TimeLimits

_MAX_UNSTORED = 1000
"""Events that may wait to be stored before their agent is slowed down."""

_POLL_SECONDS = 0.05


class StopReason(StrEnum):
    """Why a running attempt is stopped from outside. The first reason counts."""

    CANCELLED = "cancelled"
    LEASE_LOST = "lease_lost"
    SHUTDOWN = "shutdown"
    HARD_LIMIT = "hard_limit"


class Attempt:
    """One running attempt: its lease, its clock, and the writes that are not stored yet.

    The agent's `AttemptContext` adds writes, the `EventWriter` stores them, and the heartbeat stops
    the attempt. Methods may be called from any thread.
    """

    def __init__(self, lease: Lease, *, last_chance: bool = False) -> None:
        self.lease = lease
        self.last_chance = last_chance
        """Whether the execution fails if this process is lost once more."""
        self.time_limits = TimeLimits()
        self.stop_reason: StopReason | None = None
        self.has_writes = False
        """Whether anything was ever added."""
        self.has_output = False
        """Whether there was a message, a tool call or a model call, so that a report is useful."""
        self.has_rows = False
        """Whether it has stored, or tried to store, questions or a session."""
        self.has_workdir = False
        """Whether the agent asked for its directory, which is then there."""
        self.masker: Masker | None = None
        """Masks the secrets that the agent was given, if it was given any."""
        self.folders: dict[ArtifactOwner, Folder] = {}
        """Further directories that the agent works in, to be saved at its end."""
        self._pending = PendingWrites(lease)
        self._batch: PendingWrites | None = None
        """The batch being sent. It is sent again unchanged until it is known to be stored."""
        self._batches = 0
        self._closed = False
        self._lock = threading.Lock()
        self._cancel: Callable[[], object] | None = None

    @property
    def used_files(self) -> bool:
        """Whether the agent had a directory."""
        return self.has_workdir or bool(self.folders)

    def check_lease(self) -> None:
        """Raise LeaseLostError if this worker no longer owns the attempt."""
        if self.stop_reason is StopReason.LEASE_LOST:
            raise LeaseLostError("This worker no longer owns the attempt.")

    def expect_rows(self) -> None:
        """Note that the agent stores a question or a session, which the attempt's end must see.

        Call it before each such write. Raises LeaseLostError if this worker no longer owns the
        attempt, or is ending it.
        """
        self.check_lease()
        with self._lock:
            if self._closed:
                raise LeaseLostError("The attempt has ended.")
            self.has_rows = True

    def write(self, change: Callable[[PendingWrites], None]) -> None:
        """Apply `change` to the pending writes. Raises LeaseLostError."""
        self.check_lease()
        self.has_writes = True
        with self._lock:
            change(self._pending)

    async def wait_for_room(self) -> None:
        """Wait while too many events are not stored. Raises LeaseLostError."""
        while len(self._pending.events) >= _MAX_UNSTORED:
            self.check_lease()
            await asyncio.sleep(_POLL_SECONDS)

    def next_batch(self) -> PendingWrites | None:
        """Return the batch to store now, or None.

        Returns the same batch until `batch_stored` or `batch_refused` is called: a repeated write
        must be recognisable after a lost answer.
        """
        with self._lock:
            return None if self._closed else self._next_batch()

    def batch_stored(self) -> None:
        """Continue with the next batch."""
        with self._lock:
            self._batch = None
            self._batches += 1

    def batch_refused(self, instead: PendingWrites | None = None) -> None:
        """Drop a batch that the database refuses, or send `instead` under the same number."""
        with self._lock:
            self._batch = instead

    def last_batches(self) -> list[PendingWrites]:
        """Return all batches not known to be stored, at most two. No further ones follow.

        A batch that is being stored at this moment is among them: its number keeps it from being
        stored twice, and finishing must not wait for a lock that the event writer waits for.
        """
        batches = []
        with self._lock:
            self._closed = True
            while (batch := self._next_batch()) is not None:
                batches.append(batch)
                self._batch = None
                self._batches += 1
        return batches

    def _next_batch(self) -> PendingWrites | None:
        if self._batch is None and self._pending:
            self._batch, self._pending = self._pending, PendingWrites(self.lease)
            self._batch.number = self._batches + 1
        return self._batch

    def on_stop(self, cancel: Callable[[], object]) -> None:
        """Set what cancels the agent. Calls it at once if the attempt was stopped before."""
        with self._lock:
            self._cancel = cancel
            stopped = self.stop_reason is not None
        if stopped:
            cancel()

    def stop(self, reason: StopReason) -> bool:
        """Stop the agent. Later reasons are ignored, except for a lost lease.

        Cancels at most once: cancelling again would interrupt the agent's cleanup. Returns whether
        this call cancelled it.
        """
        with self._lock:
            first = self.stop_reason is None
            if first or reason is StopReason.LEASE_LOST:
                self.stop_reason = reason
            cancel = self._cancel
        if first and cancel is not None:
            cancel()
        return first


class Registration:
    """The identity under which this process may claim now. Safe to share between threads.

    It changes when the process is declared lost: what the old identity had claimed is not its own
    any more.
    """

    def __init__(self, worker: WorkerIdentity) -> None:
        """Begin with `worker`, whose lease is not valid yet."""
        self._worker = worker
        self._valid = threading.Event()
        self._paused = False

    @property
    def worker(self) -> WorkerIdentity:
        """The identity, whether its lease is valid or not."""
        return self._worker

    @property
    def valid(self) -> bool:
        """Whether the lease was valid the last time that the database was asked."""
        return self._valid.is_set()

    def wait(self, seconds: float) -> WorkerIdentity:
        """Return the identity once its lease is valid. Raises LeaseExpiredError."""
        if not self._valid.wait(seconds):
            raise LeaseExpiredError(
                "The heartbeat of this worker process could not renew its lease."
            )
        return self._worker

    def expired(self, worker: WorkerIdentity) -> None:
        """Note that a claim was refused; the heartbeat renews the lease soon."""
        if worker == self._worker:
            self._valid.clear()

    @property
    def paused(self) -> bool:
        """Whether the worker was paused when the lease was renewed last."""
        return self._paused

    def renewed(self, *, paused: bool) -> None:
        """Note that the lease is valid, and whether the worker is paused."""
        self._paused = paused
        self._valid.set()

    def replace(self) -> WorkerIdentity:
        """Begin again with a new identity, which must be registered."""
        self._valid.clear()
        self._worker = WorkerIdentity(uuid7(), self._worker.name)
        return self._worker


class ClaimTokens:
    """The tokens with which one slot has claimed or may be claiming: at most the last two.

    The heartbeat hands back executions whose tokens no slot knows.
    """

    def __init__(self, known: Iterable[UUID] = ()) -> None:
        self.known: tuple[UUID, ...] = tuple(known)

    def new(self) -> UUID:
        """Return a new token. The one before it may still be in use, older ones are not."""
        token = uuid4()
        self.known = (*self.known[-1:], token)
        return token


class AttemptRegistry:
    """The running attempts by execution. Safe to share between threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._attempts: dict[UUID, Attempt] = {}
        self._slots: set[ClaimTokens] = set()
        self._last_chance: Attempt | None = None

    @contextmanager
    def claiming(self, known: Iterable[UUID] = ()) -> Iterator[ClaimTokens]:
        """Yield the tokens for the claims of a slot; they are known while the block runs.

        So are the tokens `known`, for claims of several executions at once.
        """
        tokens = ClaimTokens(known)
        with self._lock:
            self._slots.add(tokens)
        try:
            yield tokens
        finally:
            with self._lock:
                self._slots.discard(tokens)

    @property
    def idle(self) -> bool:
        """Whether nothing runs and no claim is being made, after which something might run."""
        with self._lock:
            return not (self._attempts or self._slots)

    def tokens(self) -> set[UUID]:
        """Return the tokens of all attempts that run here and of all claims being made."""
        with self._lock:
            known = {token for slot in self._slots for token in slot.known}
            return known | {attempt.lease.token for attempt in self._attempts.values()}

    @contextmanager
    def registered(self, attempt: Attempt) -> Iterator[None]:
        """Register `attempt` while the block runs.

        If an earlier attempt of the execution still runs here, its lease is lost: it is stopped and
        replaced.
        """
        self.add(attempt)
        try:
            yield
        finally:
            self.remove(attempt)

    def add(self, attempt: Attempt) -> None:
        """Register `attempt` until `remove`; see `registered`."""
        key = attempt.lease.execution_id
        with self._lock:
            earlier = self._attempts.get(key)
            self._attempts[key] = attempt
            if attempt.last_chance and self._last_chance is None:
                self._last_chance = attempt
        if earlier is not None:
            earlier.stop(StopReason.LEASE_LOST)

    def remove(self, attempt: Attempt) -> None:
        """Forget `attempt`, which has ended."""
        key = attempt.lease.execution_id
        with self._lock:
            if self._attempts.get(key) is attempt:
                del self._attempts[key]
            if self._last_chance is attempt:
                self._last_chance = None

    def may_run(self, attempt: Attempt) -> bool:
        """Whether a registered attempt may run: of those with their last chance one at a time.

        Which of several has ended a process is unknown. In company, one that ends each process it
        runs in would fail the others with it.
        """
        with self._lock:
            return not attempt.last_chance or self._last_chance is attempt

    def all(self) -> list[Attempt]:
        """Return the running attempts."""
        with self._lock:
            return list(self._attempts.values())

    def among(self, execution_ids: Iterable[UUID]) -> list[UUID]:
        """Return those of the executions that run here."""
        with self._lock:
            return [key for key in execution_ids if key in self._attempts]

    def pause_clock(self, lease: Lease) -> Callable[[], None]:
        """Pause the time limits of the attempt with `lease`; return what resumes them."""
        attempt = self._with(lease)
        return (lambda: None) if attempt is None else attempt.time_limits.pause()

    def expect_rows(self, lease: Lease) -> None:
        """Do so for the attempt with `lease`. Raises LeaseLostError if it no longer runs here."""
        attempt = self._with(lease)
        if attempt is None:
            raise LeaseLostError("The attempt has ended.")
        attempt.expect_rows()

    def _with(self, lease: Lease) -> Attempt | None:
        with self._lock:
            attempt = self._attempts.get(lease.execution_id)
        return attempt if attempt is not None and attempt.lease == lease else None

    def stop(self, execution_ids: Iterable[UUID], reason: StopReason) -> None:
        """Stop those of the executions that run here."""
        with self._lock:
            found = [self._attempts[key] for key in execution_ids if key in self._attempts]
        for attempt in found:
            attempt.stop(reason)

    def stop_all(self, reason: StopReason) -> int:
        """Stop all running attempts; return how many were not stopped before."""
        return sum(attempt.stop(reason) for attempt in self.all())

    def __len__(self) -> int:
        """Return the number of running attempts."""
        return len(self._attempts)
