"""The parts of the situation report, from rows."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, TypeVar
from urllib.parse import urlsplit
from uuid import UUID

from celeriac.db.budgets import management
from celeriac.db.engine import Connection
from celeriac.domain.budgets import StoredBudget
from celeriac.domain.executions.states import Status
from celeriac.domain.operations import JobRow
from celeriac.domain.plain_tasks import EndCounts, PlainFigures, PlainWaiting
from celeriac.domain.sitrep import (
    MOST_COUNTED,
    MOST_ERROR_CHARACTERS,
    MOST_QUEUES,
    Attention,
    BudgetUse,
    FailingEndpoint,
    FailingTask,
    LateSchedule,
    LiveCount,
    PauseFact,
    PeriodicTask,
    QueueState,
    Section,
    Totals,
    WaitingReason,
    WorkerState,
    reason_of,
)
from celeriac.logs.redact import clip

T = TypeVar("T")
U = TypeVar("U")

_FOR_WORKERS = frozenset({"due", "sent"})


def mapped(section: Section[T], make: Callable[[T], U]) -> Section[U]:
    """Return a section with what `make` makes of its data."""
    data = None if section.data is None else make(section.data)
    return Section(
        ok=section.ok, as_of=section.as_of, age_seconds=section.age_seconds, data=data,
        error=section.error,
    )  # fmt: skip


def shown(text: str | None) -> str | None:
    """Return an error as reports show it: secrets masked, cut."""
    return None if text is None else clip(text, MOST_ERROR_CHARACTERS)


def waiting(live: Sequence[LiveCount]) -> list[WaitingReason]:
    """Return how many executions wait, by reason: the oldest first."""
    counts: dict[str, int] = defaultdict(int)
    oldest: dict[str, float | None] = {}
    for each in live:
        if each.status is Status.RUNNING:
            continue
        reason = reason_of(each)
        counts[reason] += each.count
        known = [age for age in (oldest.get(reason), each.oldest_seconds) if age is not None]
        oldest[reason] = max(known, default=None)
    found = [
        WaitingReason(
            reason=reason,
            count=min(count, MOST_COUNTED),
            capped=count > MOST_COUNTED,
            oldest_seconds=oldest[reason],
        )
        for reason, count in counts.items()
    ]
    return sorted(found, key=lambda each: -(each.oldest_seconds or 0.0))


def queues(
    live: Sequence[LiveCount], workers: Sequence[WorkerState], attention: Attention | None
) -> list[QueueState]:
    """Return the queues in which something waits or to which somebody listens, the oldest first.

    At most MOST_QUEUES: who submits chooses the names.
    """
    listening = [each for each in workers if each.status == "live"]
    pauses = attention.pauses if attention else ()
    system = next((each for each in pauses if each.subject == "the system"), None)
    waiting: dict[str, list[LiveCount]] = {each.queue: [] for each in live if each.queue}
    waiting |= {queue: [] for worker in listening for queue in worker.queues}
    for each in live:
        if each.queue and each.status is not Status.RUNNING and reason_of(each) in _FOR_WORKERS:
            waiting[each.queue].append(each)
    oldest = {
        name: max((each.oldest_seconds or 0.0 for each in mine), default=None)
        for name, mine in waiting.items()
    }
    found = []
    for name in sorted(waiting, key=lambda name: (-(oldest[name] or 0.0), name))[:MOST_QUEUES]:
        of = [each for each in listening if not each.queues or name in each.queues]
        pause = next((each for each in pauses if each.queue == name), system)
        depth = sum(each.count for each in waiting[name])
        found.append(
            QueueState(
                queue=name,
                depth=min(depth, MOST_COUNTED),
                capped=depth > MOST_COUNTED,
                oldest_seconds=oldest[name],
                workers=len(of),
                slots=sum(each.slots for each in of),
                paused=pause is not None,
                paused_reason=pause.reason if pause else None,
            )
        )
    return found


def with_plain(totals: Totals, plain: EndCounts | None) -> Totals:
    """Return figures of executions with the plain tasks that ended; times stay as they are."""
    if plain is None:
        return totals
    completed, failed = totals.completed + plain.completed, totals.failed + plain.failed
    finished = completed + failed
    rate = totals.per_minute
    if rate is not None and totals.seconds is not None:
        rate += plain.ended * 60 / totals.seconds
    return replace(
        totals,
        completed=completed,
        failed=failed,
        cancelled=totals.cancelled + plain.cancelled,
        success_rate=completed / finished if finished else None,
        per_minute=rate,
    )


def figures(
    totals: Totals | None,
    live: Sequence[LiveCount] | None,
    plain: PlainFigures | None,
    plain_waiting: PlainWaiting | None,
) -> dict[str, Any]:
    """Return the flat figures (REQUIREMENTS D1), None for what is not known.

    `totals` has the plain tasks that ended already.
    """
    active = pending = None
    capped = plain_waiting is not None and plain_waiting.capped
    if live is not None:
        counts: dict[bool, int] = defaultdict(int)
        for each in live:
            counts[each.status is Status.RUNNING] += each.count
            capped = capped or each.count > MOST_COUNTED
        active = counts[True] + (plain.running if plain else 0)
        pending = counts[False] + (plain_waiting.count if plain_waiting else 0)
    known = totals is not None and active is not None and pending is not None
    ended = totals.completed + totals.failed + totals.cancelled if totals else 0
    return {
        "total_tasks": ended + (active or 0) + (pending or 0) if known else None,
        "active_tasks": active,
        "completed_tasks": totals.completed if totals else None,
        "failed_tasks": totals.failed if totals else None,
        "pending_tasks": pending,
        "success_rate": totals.success_rate if totals else None,
        "capped": capped,
    }


def workers(found: Sequence[tuple[Any, ...]], silent_seconds: float) -> list[WorkerState]:
    """Return worker processes: those that don't report first.

    A silent one is left out once a process that began later has its name.
    """
    states = [_worker(row, silent_seconds) for row in found]
    live = [each for each in states if each.status != "silent"]
    kept = [
        each
        for each in states
        if each.status != "silent"
        or not any(
            other.hostname == each.hostname and other.started_at > each.started_at for other in live
        )
    ]
    return sorted(kept, key=lambda each: (each.status != "silent", each.hostname, each.pid))


def _worker(row: tuple[Any, ...], silent_seconds: float) -> WorkerState:
    hostname, pid, queues_of, slots, running, version, *rest = row
    started, seen, consuming, age, lost, paused = rest
    status = "live" if consuming is not False else "not_consuming"
    if paused:
        status = "paused"
    if lost or age > silent_seconds:
        status = "silent"
    return WorkerState(
        hostname=hostname,
        pid=pid,
        status=status,
        queues=list(queues_of),
        slots=slots,
        running=running,
        version=version,
        started_at=started,
        seen_at=seen,
        silent_seconds=max(float(age), 0.0),
    )


def attention(
    approvals: tuple[int, float | None],
    budgets: Sequence[BudgetUse],
    endpoints: Sequence[tuple[Any, ...]],
    pauses: Sequence[tuple[Any, ...]],
    late: Sequence[LateSchedule],
    *,
    failing: Sequence[FailingTask],
    silent: tuple[int, float | None],
    regressed: tuple[int, float | None],
    stuck_jobs: tuple[int, float | None],
) -> Attention:
    """Return what waits for people."""
    count, oldest = approvals
    return Attention(
        approvals=min(count, MOST_COUNTED),
        approvals_capped=count > MOST_COUNTED,
        oldest_approval_seconds=oldest,
        budgets=budgets,
        endpoints=[
            FailingEndpoint(
                host=urlsplit(url).hostname or "?", failing_seconds=float(age), paused=paused
            )
            for url, age, paused in endpoints
        ],
        pauses=[
            PauseFact(
                subject="the system" if scope == "system" else f"the {scope} {name}",
                queue=queue,
                reason=shown(reason) or "",
                seconds=float(age),
            )
            for scope, name, queue, reason, age in pauses
        ],
        late_schedules=late,
        failing_tasks=failing,
        regressed=min(regressed[0], MOST_COUNTED),
        regressed_seconds=regressed[1],
        stuck_jobs=min(stuck_jobs[0], MOST_COUNTED),
        stuck_jobs_seconds=stuck_jobs[1],
        silent=silent[0],
        silent_seconds=silent[1],
    )


def budgets_of(connection: Connection, workspace: UUID | None, *, limit: int) -> list[BudgetUse]:
    """Return how much is spent of the newest budgets, the most spent first."""
    found = management.find(
        connection, workspace=workspace, subject_id=None, before=None, limit=limit
    )
    uses = [
        BudgetUse(
            subject=f"the {each.scope} {each.subject_name}", period=each.period, share=share(each)
        )
        for each in found
    ]
    return sorted((each for each in uses if each.share > 0), key=lambda each: -each.share)


def share(budget: StoredBudget) -> float:
    """Return how much of a budget is spent: of its cost or tokens, what is nearer to the limit."""
    state = budget.state
    parts = [0.0]
    if state.max_cost is not None:
        parts.append(float(state.spent_cost / state.max_cost) if state.max_cost > Decimal(0) else 1)
    if state.max_tokens is not None:
        parts.append(state.spent_tokens / state.max_tokens if state.max_tokens > 0 else 1)
    return max(parts)


def periodic(found: Sequence[tuple[Any, ...]]) -> list[PeriodicTask]:
    """Return schedules with their last fire."""
    return [_periodic(row) for row in found]


def _periodic(row: tuple[Any, ...]) -> PeriodicTask:
    name, active, cron, every, at, zone, due_at, late = row[:8]
    scheduled_at, started_at, fire, reason, fire_error, execution, error, run, run_error = row[8:]
    status: str | None = execution or run or fire
    if fire == "skipped":
        status = f"skipped ({reason})" if reason else "skipped"
    ran: datetime | None = started_at or scheduled_at
    return PeriodicTask(
        name=name,
        kind="schedule",
        active=active,
        timing=_timing(cron, every, at, zone),
        last_run_at=ran,
        last_status=status,
        last_error=shown(fire_error or error or run_error),
        next_run_at=due_at if active else None,
        late_seconds=float(late) if active and late is not None and late > 0 else None,
    )


def _timing(cron: str | None, every: int | None, at: datetime | None, zone: str) -> str:
    if cron is not None:
        return f"{cron} ({zone})"
    return f"every {every} s" if every is not None else f"once, {at:%Y-%m-%d %H:%M:%S} UTC"


_RECORDED_SECONDS = 60.0
"""A job that works is recorded this often."""


def jobs(found: Sequence[JobRow], *, errors: bool) -> list[PeriodicTask]:
    """Return the system's jobs; their errors only with `errors`."""
    return [
        PeriodicTask(
            name=each.name,
            kind="maintenance",
            active=True,
            timing=f"every {each.interval_seconds:g} s",
            last_run_at=each.started_at,
            last_status="failed" if each.failures else "completed",
            last_error=shown(each.error) if errors else None,
            next_run_at=each.next_at,
            late_seconds=_late(each),
        )
        for each in found
    ]


def _late(job: JobRow) -> float | None:
    """Return how late the next record of a job is; None if it isn't."""
    expected = max(job.next_at, job.ended_at + timedelta(seconds=_RECORDED_SECONDS))
    late = (job.read_at - expected).total_seconds()
    return late if late > 0 else None
