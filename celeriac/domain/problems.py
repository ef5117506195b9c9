"""The rules of the situation report: which facts are problems, how bad, and what cures them.

Pure: facts in, problems out, the worst first. Each code has a section in docs/runbook.md.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from celeriac.domain.sitrep import SEVERITY, Facts, Level, Problem, QueueState
from celeriac.kit.words import counted

_MINUTE = 60.0
_SHOWN = 3
_OF_A_KIND = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Thresholds:
    """From when on facts are problems; ages in seconds, shares from 0 to 1."""

    no_worker_seconds: float = 10.0
    queue_seconds: float = 300.0
    queue_critical_seconds: float = 1_800.0
    failure_share: float = 0.05
    failure_critical_share: float = 0.5
    failure_runs: int = 20
    keeper_seconds: float = 60.0
    schedule_seconds: float = 60.0
    approval_seconds: float = 3_600.0
    budget_share: float = 0.8
    bulk_job_seconds: float = 120.0


Rule = Callable[[Facts, Thresholds], Iterator[Problem]]


def problems(facts: Facts, limits: Thresholds) -> list[Problem]:
    """Return the problems that the facts show: the worst first, then the oldest.

    At most twenty of each code and level: a thousand of one kind must not hide the others.
    """
    found = [replace(each, link=link(each.code)) for rule in _RULES for each in rule(facts, limits)]
    found.sort(key=lambda each: (SEVERITY[each.level], -each.age_seconds, each.code))
    seen: Counter[tuple[str, Level]] = Counter()
    kept = []
    for each in found:
        seen[each.code, each.level] += 1
        if seen[each.code, each.level] <= _OF_A_KIND:
            kept.append(each)
    return kept


def level_of(found: Sequence[Problem]) -> Level:
    """Return the level of the whole: that of the worst problem; what is info is well."""
    worst = min((each.level for each in found), key=SEVERITY.__getitem__, default=Level.WELL)
    return Level.WELL if worst is Level.INFO else worst


def headline(found: Sequence[Problem]) -> str:
    """Return one sentence for people: the worst problem, and how many more there are."""
    bad = [each for each in found if each.level is not Level.INFO]
    if not bad:
        return f"All is well. {found[0].text}" if found else "All is well."
    if len(bad) == 1:
        return bad[0].text
    more = len(bad) - 1
    return f"{bad[0].text} There {'is' if more == 1 else 'are'} {counted(more, 'more problem')}."


def age(seconds: float) -> str:
    """Return an age in words, as `40 seconds`, `12 minutes`, `3 hours` or `2 days`."""
    for name, size, most in (("second", 1, 120), ("minute", 60, 120), ("hour", 3_600, 48)):
        if seconds < size * most:
            return counted(int(seconds // size), name)
    return counted(int(seconds // 86_400), "day")


def _number(count: int, *, capped: bool) -> str:
    return f"{count:,}+ executions" if capped else counted(count, "execution")


def _servers(facts: Facts, _: Thresholds) -> Iterator[Problem]:
    if facts.database_error is not None:
        yield Problem(
            level=Level.CRITICAL,
            code="database_unavailable",
            text="PostgreSQL does not answer: nothing is accepted, started or finished.",
            cure="Start PostgreSQL, or correct DATABASE_URL. `celeriac doctor` names the reason.",
            age_seconds=float("inf"),
        )
    if facts.redis_error is not None:
        yield Problem(
            level=Level.CRITICAL,
            code="redis_unavailable",
            text="Redis does not answer: executions are accepted and wait to be sent.",
            cure="Start Redis or Valkey, or correct REDIS_URL. Nothing is lost meanwhile.",
            age_seconds=float("inf"),
        )
    if facts.broker_error is not None and facts.redis_error is None:
        yield Problem(
            level=Level.CRITICAL,
            code="broker_refused",
            text="The broker refuses or does not answer: no message reaches a worker.",
            cure="Start the broker, or correct CELERY_BROKER_URL. What waits is sent afterwards.",
            age_seconds=float("inf"),
        )


def _queues(facts: Facts, limits: Thresholds) -> Iterator[Problem]:
    serves_all = any(each.status == "live" and not each.queues for each in facts.workers or ())
    for queue in facts.queues or ():
        waits = queue.oldest_seconds or 0.0
        if queue.depth == 0 or queue.paused:
            continue
        if queue.workers == 0 and facts.workers is not None and not serves_all:
            if waits >= limits.no_worker_seconds:
                yield _without_worker(queue, waits)
        elif waits >= limits.queue_seconds:
            critical = waits >= limits.queue_critical_seconds
            yield Problem(
                level=Level.CRITICAL if critical else Level.WARNING,
                code="queue_old",
                text=f"The oldest execution in the queue {queue.queue} has waited for "
                f"{age(waits)}; {_number(queue.depth, capped=queue.capped)} "
                f"{'waits' if queue.depth == 1 else 'wait'}, for {counted(queue.slots, 'slot')}.",
                cure=f"Start another worker: `celeriac worker -Q {queue.queue}`. "
                "`celeriac why ID` says what one waits for.",
                age_seconds=waits,
            )


def _without_worker(queue: QueueState, waits: float) -> Problem:
    return Problem(
        level=Level.CRITICAL,
        code="no_worker_for_queue",
        text=f"No worker listens to the queue {queue.queue}: "
        f"{_number(queue.depth, capped=queue.capped)} "
        f"{'waits' if queue.depth == 1 else 'wait'}, the oldest for {age(waits)}.",
        cure=f"Start one: `celeriac worker -Q {queue.queue}`.",
        age_seconds=waits,
    )


def _failures(facts: Facts, limits: Thresholds) -> Iterator[Problem]:
    window = facts.window
    if window is None:
        return
    finished = window.completed + window.failed
    share = window.failed / finished if finished else 0.0
    if finished < limits.failure_runs or share <= limits.failure_share:
        return
    critical = share >= limits.failure_critical_share
    yield Problem(
        level=Level.CRITICAL if critical else Level.WARNING,
        code="failure_rate_high",
        text=f"{share:.0%} of the last {counted(finished, 'execution')} failed, "
        f"in {age(window.seconds or 0.0)}.",
        cure="`celeriac executions list --status failed` shows them with their errors.",
    )


def _failing_tasks(facts: Facts, _: Thresholds) -> Iterator[Problem]:
    failing = facts.attention.failing_tasks if facts.attention else ()
    if not failing:
        return
    window = facts.window.seconds if facts.window else None
    ended = f"ended in the last {age(window)}" if window else "ended lately"
    if len(failing) == 1:
        name = failing[0].name
        text = f"No execution of the task {name} that {ended} has completed: "
        text += f"{counted(failing[0].failed, 'failure')}."
        shown = f" --task {name.rpartition('/')[2]}"
    else:
        names = ", ".join(f"{each.name} ({each.failed:,})" for each in failing[:_SHOWN])
        rest = f" and {len(failing) - _SHOWN} more" if len(failing) > _SHOWN else ""
        text = f"No execution of {len(failing)} tasks that {ended} has completed: {names}{rest}."
        shown = ""
    yield Problem(
        level=Level.WARNING,
        code="tasks_failing",
        text=text,
        cure=f"`celeriac executions list --status failed{shown}` shows the errors. Correct the "
        "cause, or `celeriac failures mute GROUP` if it is expected.",
    )


def _workers(facts: Facts, _: Thresholds) -> Iterator[Problem]:
    silent = [each for each in facts.workers or () if each.status == "silent"]
    if silent:
        names = ", ".join(f"{each.hostname} ({each.pid})" for each in silent[:_SHOWN])
        rest = f" and {len(silent) - _SHOWN} more" if len(silent) > _SHOWN else ""
        yield Problem(
            level=Level.WARNING,
            code="worker_missed_lease",
            text=f"{counted(len(silent), 'worker process', 'worker processes')} stopped reporting "
            f"without shutting down: {names}{rest}.",
            cure="Look at its log and at the machine's memory. What it ran starts again elsewhere.",
            age_seconds=max(each.silent_seconds for each in silent),
        )


def _keeper(facts: Facts, limits: Thresholds) -> Iterator[Problem]:
    behind = (facts.window.behind_seconds if facts.window else None) or 0.0
    jobs = [each for each in facts.periodic or () if each.kind == "maintenance"]
    # one job may take long; that all are overdue means that nobody runs them
    idle = min((each.late_seconds or 0.0 for each in jobs), default=0.0)
    since = max(behind, idle)
    if since >= limits.keeper_seconds:
        yield Problem(
            level=Level.CRITICAL,
            code="keeper_silent",
            text=f"The keeper has done nothing for {age(since)}: what is due is not sent, and "
            "lost workers are not noticed.",
            cure="Start it: `celeriac beat`. See its log if it runs.",
            age_seconds=since,
        )
    for job in facts.periodic or ():
        if job.kind == "maintenance" and job.last_status == "failed":
            yield Problem(
                level=Level.WARNING,
                code="maintenance_job_failing",
                text=f"The maintenance job {job.name} fails"
                f"{f': {job.last_error}' if job.last_error else ''}.",
                cure="`celeriac maintenance` shows it; the log has the traceback.",
            )


def _people(facts: Facts, limits: Thresholds) -> Iterator[Problem]:
    attention = facts.attention
    if attention is None:
        return
    for late in attention.late_schedules:
        if late.late_seconds >= limits.schedule_seconds:
            yield Problem(
                level=Level.WARNING,
                code="schedule_late",
                text=f"The schedule {late.name} should have fired {age(late.late_seconds)} ago.",
                cure="See whether the keeper runs: `celeriac doctor`.",
                age_seconds=late.late_seconds,
            )
    oldest = attention.oldest_approval_seconds
    if oldest is not None and oldest >= limits.approval_seconds:
        plus = "+" if attention.approvals_capped else ""
        yield Problem(
            level=Level.WARNING,
            code="approval_old",
            text=f"A question has waited for an answer for {age(oldest)}; "
            f"{attention.approvals:,}{plus} {'is' if attention.approvals == 1 else 'are'} open.",
            cure="`celeriac approvals list` shows them, `celeriac approvals answer ID` answers.",
            age_seconds=oldest,
        )
    for use in attention.budgets:
        if use.share >= limits.budget_share:
            spent = use.share >= 1
            yield Problem(
                level=Level.WARNING,
                code="budget_spent" if spent else "budget_nearly_spent",
                text=f"The budget of {use.subject} for this {use.period} is spent."
                if spent
                else f"{use.share:.0%} of the budget of {use.subject} for this {use.period} "
                "is spent.",
                cure="`celeriac budgets list` shows it; `celeriac budgets set` raises it.",
            )
    for endpoint in attention.endpoints:
        yield Problem(
            level=Level.WARNING,
            code="webhook_endpoint_failing",
            text=f"The webhook endpoint at {endpoint.host} has failed for "
            f"{age(endpoint.failing_seconds)}"
            f"{' and is paused' if endpoint.paused else ''}.",
            cure="`celeriac deliveries list` has its answers; repair it, then resume it.",
            age_seconds=endpoint.failing_seconds,
        )
    for pause in attention.pauses:
        yield Problem(
            level=Level.INFO,
            code="paused",
            text=f"Paused: {pause.subject}, since {age(pause.seconds)}: {pause.reason}",
            cure="`celeriac pauses list` shows what is paused, `celeriac resume` ends it.",
            age_seconds=pause.seconds,
        )


def _executions(facts: Facts, _: Thresholds) -> Iterator[Problem]:
    attention = facts.attention
    if attention is None:
        return
    if attention.regressed:
        many = attention.regressed
        yield Problem(
            level=Level.WARNING,
            code="failure_regressed",
            text=f"{counted(many, 'resolved group')} of failures "
            f"{'has' if many == 1 else 'have'} failed again, the latest "
            f"{age(attention.regressed_seconds or 0.0)} ago.",
            cure="`celeriac failures list --state regressed` shows them; resolve, mute or note "
            "them as known.",
            age_seconds=attention.regressed_seconds or 0.0,
        )
    if attention.stuck_jobs:
        many = attention.stuck_jobs
        still = attention.stuck_jobs_seconds or 0.0
        yield Problem(
            level=Level.WARNING,
            code="bulk_job_stuck",
            text=f"{counted(many, 'bulk job')} {'has' if many == 1 else 'have'} made no progress "
            f"for {age(still)}.",
            cure="`celeriac bulk list` shows them. See whether the keeper runs and what its log "
            "says: `celeriac maintenance`.",
            age_seconds=still,
        )
    if attention.silent and attention.silent_seconds is not None:
        many = attention.silent
        yield Problem(
            level=Level.INFO,
            code="executions_silent",
            text=f"{counted(many, 'execution')} that {'runs has' if many == 1 else 'run have'} "
            f"had no event for {age(attention.silent_seconds)}.",
            cure="`celeriac executions list --flag silent` shows them, `celeriac logs ID` what "
            "they logged.",
            age_seconds=attention.silent_seconds,
        )


_RULES: Sequence[Rule] = (
    _servers, _queues, _failures, _failing_tasks, _workers, _keeper, _people, _executions,
)  # fmt: skip

CODES: Mapping[str, str] = {
    "approval_old": "Approvals old",
    "broker_refused": "Broker refused",
    "budget_nearly_spent": "Budget nearly spent",
    "budget_spent": "Budget spent",
    "bulk_job_stuck": "Bulk job stuck",
    "database_unavailable": "Database down",
    "executions_silent": "Executions silent",
    "failure_rate_high": "Failure rate",
    "failure_regressed": "Failures regressed",
    "keeper_silent": "Keeper silent",
    "maintenance_job_failing": "Maintenance job failing",
    "no_worker_for_queue": "No worker for queue",
    "paused": "Paused",
    "queue_old": "Queue oldest age",
    "redis_unavailable": "Redis down",
    "schedule_late": "Schedule late",
    "tasks_failing": "Tasks failing",
    "webhook_endpoint_failing": "Webhook endpoint failing",
    "worker_missed_lease": "Worker missed lease",
}
"""All codes, each with the title of its section in the runbook."""


def link(code: str) -> str:
    """Return the path and anchor of the section of the runbook about a code."""
    return f"docs/runbook.md#{CODES[code].lower().replace(' ', '-')}"
