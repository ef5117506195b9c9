"""The core on a real database, with the broker and the live channel in memory.

The product knows one clock, the database's, and reads it with `now()`. Tests move time the other
way round: `Core.pass_time` shifts every stored time into the past, which no statement can tell from
a clock that went on.
"""

from collections.abc import Sequence
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import text

from celeriac.db import approvals, workers
from celeriac.db.engine import Database
from celeriac.db.executions import events, leases, lifecycle, queries
from celeriac.db.executions.lifecycle import Finished, NextClaim
from celeriac.domain.approvals import Answer, ApprovalFilter, ApprovalStatus, Question, QuestionKind
from celeriac.domain.executions.events import Event
from celeriac.domain.executions.model import (
    Claim,
    Execution,
    Lease,
    Message,
    Outcome,
    Parked,
    SubmitRequest,
    WorkerIdentity,
)
from celeriac.domain.executions.states import Status, WaitingFor
from celeriac.domain.operations import WorkerReport
from celeriac.domain.tasks import DEFAULT_QUEUE, TaskSpec
from celeriac.kit.ids import uuid7
from celeriac.kit.json_types import JsonObject
from celeriac.services.approvals.ask import Expire
from celeriac.services.catalog.specs import SpecCache
from celeriac.services.executions.attempt import Registration
from celeriac.services.executions.dispatch import Dispatch
from celeriac.services.executions.finish import Finish
from celeriac.services.executions.limits import TaskLimits
from celeriac.services.executions.rescue import DatabaseView, Recover
from celeriac.services.executions.run import ClaimAttempt
from celeriac.services.executions.stop import Cancel
from celeriac.services.executions.submit import Submit
from tests.support.catalog import make_actor, make_task
from tests.support.consistency import assert_consistent
from tests.support.memory import MemoryLiveEvents, MemoryTaskQueue

LEASE_SECONDS = 30.0
RESEND_SECONDS = 15.0
LIMIT = 100
ALWAYS = DatabaseView(0, longest_gap=float("inf"))
"""A keeper's view of a database that was never away."""

_YES = Answer(approved=True, by="ada")
ASKING = Parked(
    WaitingFor.APPROVAL,
    "The agent asks a person.",
    questions=(Question(key="mail", kind=QuestionKind.TOOL, title="May it be sent?"),),
)

_SHIFT = text("""
WITH moved AS (
    UPDATE workers SET lease_until = lease_until - make_interval(secs => :seconds)
), rates AS (
    UPDATE execution_rates SET next_at = next_at - make_interval(secs => :seconds)
), debounced AS (
    UPDATE debounces SET first_at = first_at - make_interval(secs => :seconds),
                         due_at = due_at - make_interval(secs => :seconds)
)
UPDATE executions
SET available_at = available_at - make_interval(secs => :seconds),
    queued_at = queued_at - make_interval(secs => :seconds),
    waiting_until = waiting_until - make_interval(secs => :seconds),
    expires_at = expires_at - make_interval(secs => :seconds)
""")

_SHIFT_QUESTIONS = text("""
UPDATE approvals SET expires_at = expires_at - make_interval(secs => :seconds)
WHERE status = 'open'
""")


def report_worker(core: "Core", slots: int, *queues: str, consuming: bool | None = True) -> None:
    """Report a live worker with so many slots for `queues`."""
    report = WorkerReport(
        id=uuid7(), hostname="w@here", pid=1, pool="threads", slots=slots, running=0,
        cpu_percent=0.0, memory_bytes=1, version="1", queues=queues, consuming=consuming,
    )  # fmt: skip
    with core.database.autocommit() as connection:
        workers.report(connection, report)
    core.start_afresh()


def describe(worker: WorkerIdentity) -> WorkerReport:
    """Return the report of a worker process."""
    return WorkerReport(
        id=worker.id, hostname=worker.name, pid=1, pool="threads", slots=1, running=0,
        cpu_percent=0, memory_bytes=0, version="0", consuming=False,
    )  # fmt: skip


class Core:
    """Services wired to each other, and what tests ask of the database."""

    def __init__(
        self,
        database: Database,
        spec: TaskSpec | None = None,
        queue: MemoryTaskQueue | None = None,
    ) -> None:
        self.database = database
        self.queue = queue or MemoryTaskQueue()
        self.live = MemoryLiveEvents()
        self.actor = make_actor(database)
        self.task = make_task(database, self.actor, spec=spec)
        self.workers: dict[str, WorkerIdentity] = {}
        self.cancel = Cancel(database, self.live)
        self.limits = TaskLimits(database, self.cancel, self.live, lambda _: None)
        self.start_afresh()
        self.finish = Finish(database, self.live)
        self.recover = Recover(database, self.queue, self.live, ALWAYS)

    def start_afresh(self) -> None:
        """Go on as another process would, which knows nothing of a broker that was away."""
        self.dispatch = Dispatch(self.database, self.queue, self.live)
        self.submit = Submit(
            self.database, SpecCache(self.database), self.dispatch, limits=self.limits
        )

    # steps

    def pending(self, variables: JsonObject | None = None) -> UUID:
        """Submit one execution that isn't sent yet."""
        return self.pending_many([variables or {}])[0]

    def pending_many(self, variables: Sequence[JsonObject]) -> Sequence[UUID]:
        """Submit executions that aren't sent yet."""
        return self.submit.batch(
            self.actor, SubmitRequest(task_id=self.task), variables
        ).execution_ids

    def queued(self) -> UUID:
        """Submit one execution and send it."""
        return self.submit(self.actor, SubmitRequest(task_id=self.task)).execution_id

    def message(self, execution_id: UUID) -> Message:
        """Return the message that would claim the execution as it is now."""
        found = self.get(execution_id)
        return Message(execution_id, found.attempt, found.celery_task_id or str(execution_id))

    def worker(self, name: str = "w") -> WorkerIdentity:
        """Return a worker process whose lease is valid now: the last one, or else another."""
        worker = self.workers.get(name)
        with self.database.autocommit() as connection:
            if (
                worker is None
                or leases.renew(connection, worker.id, lease_seconds=LEASE_SECONDS) is None
            ):
                worker = self.workers[name] = WorkerIdentity(uuid7(), name)
                workers.register(connection, describe(worker), lease_seconds=LEASE_SECONDS)
        return worker

    def claiming(self, worker: str = "w", database: Database | None = None) -> ClaimAttempt:
        """Return what claims for a worker."""
        registration = Registration(self.worker(worker))
        registration.renewed(paused=False)
        return self.claiming_as(registration, database)

    def claiming_as(
        self, registration: Registration, database: Database | None = None
    ) -> ClaimAttempt:
        """Return what claims for a registered process."""
        return ClaimAttempt(database or self.database, registration, lease_seconds=LEASE_SECONDS)

    def claim(self, message: Message, worker: str = "w") -> Claim | None:
        """Claim as a worker does."""
        return self.claiming(worker)(message, uuid4())

    def next_claim(self, worker: str = "w", queue: str = DEFAULT_QUEUE) -> NextClaim:
        """Return what a worker claims in the statement that ends an attempt."""
        return NextClaim(queue, self.worker(worker), uuid4())

    def running(self, worker: str = "w") -> Claim:
        """Submit one execution and claim it."""
        claim = self.claim(self.message(self.queued()), worker)
        assert claim is not None, "nobody else can have it"
        return claim

    def claim_again(self, claim: Claim) -> Claim:
        """Send an execution that became pending again, and claim it."""
        self.dispatch.send_due()
        again = self.claim(self.message(claim.lease.execution_id))
        assert again is not None, "nobody else can have it"
        return again

    def end(self, claim: Claim, outcome: Outcome) -> Finished:
        """Finish an attempt."""
        return self.finish(claim, outcome, (), None)

    def waiting(self) -> UUID:
        """Submit one execution whose first attempt asks a person."""
        claim = self.running()
        self.end(claim, ASKING)
        return claim.lease.execution_id

    def answer(self, execution_id: UUID) -> list[UUID]:
        """Answer all open questions of an execution; return what goes on by that."""
        wanted = ApprovalFilter(execution_id=execution_id, statuses=[ApprovalStatus.OPEN])
        with self.database.autocommit() as connection:
            asked = approvals.find(connection, wanted, before=None, limit=LIMIT).items
        resumed = [self.answer_one(each.id, execution_id)[1] for each in asked]
        return resumed[-1] if resumed else []

    def answer_one(self, approval_id: UUID, execution_id: UUID) -> tuple[bool, list[UUID]]:
        """Answer a question; return whether that was still possible, and what goes on by it."""
        with self.database.transaction() as connection:
            asked = approvals.lock(connection, approval_id, workspace=None)
            done = asked is not None and approvals.answer(connection, asked, _YES) is not None
            return done, lifecycle.resume_answered(connection, [execution_id])

    def expire(self) -> int:
        """Do what the keeper does about questions that nobody answers."""
        return Expire(self.database, self.live).expire_overdue(LIMIT)

    def resume(self) -> int:
        """Do what the keeper does about those that have waited long enough."""
        return self.recover.resume_due(LIMIT)

    def rescue(self) -> int:
        """Do what the keeper does about lost workers."""
        return self.recover.rescue_lost_workers(LIMIT)

    def resend(self) -> int:
        """Do what the keeper does about lost messages."""
        return self.recover.requeue_lost_messages(older_than=RESEND_SECONDS, limit=LIMIT)

    def lose_messages(self) -> int:
        """Empty the broker; return how many messages that were."""
        lost = 0
        while self.queue.take(DEFAULT_QUEUE) is not None:
            lost += 1
        return lost

    def pass_time(self, seconds: float) -> None:
        """Let so much time pass for every execution and every lease."""
        self.execute(_SHIFT, seconds=seconds)
        self.execute(_SHIFT_QUESTIONS, seconds=seconds)

    def end_expired(self) -> list[UUID]:
        """Cancel what has not begun in time, as the keeper does."""
        with self.database.transaction() as connection:
            return lifecycle.end_expired(connection, limit=LIMIT)

    def unqueue(self, execution_id: UUID, delay: float = 0.0) -> list[UUID]:
        """Put a queued execution back, as after a failed publication."""
        with self.database.autocommit() as connection:
            address = self.get(execution_id).celery_task_id or str(uuid4())
            return lifecycle.unqueue(
                connection, {execution_id: address}, delay=delay, reason="test"
            )

    # what the database has

    def execute(self, statement: Any, **parameters: Any) -> None:
        """Execute a statement."""
        statement = text(statement) if isinstance(statement, str) else statement
        with self.database.transaction() as connection:
            connection.execute(statement, parameters)

    def count(self, table: str) -> int:
        """Return how many rows a table has."""
        with self.database.autocommit() as connection:
            return int(connection.execute(text(f"SELECT count(*) FROM {table}")).scalar_one())

    def get(self, execution_id: UUID) -> Execution:
        """Return an execution."""
        with self.database.autocommit() as connection:
            found = queries.get(connection, execution_id, workspace=None)
        assert found is not None, f"{execution_id} is lost"
        return found

    def status(self, execution_id: UUID) -> Status:
        """Return an execution's status."""
        return self.get(execution_id).status

    def lease(self, execution_id: UUID) -> Lease:
        """Return the lease that was given last, or one that nobody ever had."""
        with self.database.autocommit() as connection:
            query = text("SELECT attempt, lease_token FROM executions WHERE id = :id")
            attempt, token = connection.execute(query, {"id": execution_id}).one()
        return Lease(execution_id, attempt, token or uuid4())

    def events(self, execution_id: UUID) -> list[Event]:
        """Return an execution's log."""
        with self.database.autocommit() as connection:
            return events.after(connection, execution_id, 0, 10_000)

    def event_types(self, execution_id: UUID) -> list[str]:
        """Return the kinds of an execution's events, in order."""
        return [event.type.value for event in self.events(execution_id)]

    def snapshot(self, execution_id: UUID) -> tuple[Execution, list[Event]]:
        """Return all that a transition could have changed."""
        return self.get(execution_id), self.events(execution_id)

    def assert_consistent(self) -> None:
        """Check what must hold at any time."""
        assert_consistent(self.database)
