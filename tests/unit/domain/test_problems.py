"""From facts to problems: which, how bad, in which order, and what helps."""

import re
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from celeriac.domain.executions.states import Status
from celeriac.domain.problems import CODES, Thresholds, age, headline, level_of, link, problems
from celeriac.domain.sitrep import (
    MOST_QUEUES,
    Attention,
    BudgetUse,
    Facts,
    FailingEndpoint,
    FailingTask,
    LateSchedule,
    Level,
    LiveCount,
    PauseFact,
    PeriodicTask,
    QueueState,
    Totals,
    WorkerState,
    friendly_name,
)
from celeriac.services.operations.sitrep_parts import queues

LIMITS = Thresholds()
AT = datetime(2026, 11, 22, tzinfo=UTC)
QUEUE = QueueState(
    queue="mail", depth=12, capped=False, oldest_seconds=400.0, workers=1, slots=4, paused=False
)
WORKER = WorkerState(
    hostname="celery@a", pid=7, status="live", queues=["mail"], slots=4, running=0, version="1",
    started_at=AT, seen_at=AT, silent_seconds=1.0,
)  # fmt: skip
TOTALS = Totals(completed=15, failed=5, cancelled=9, success_rate=0.75, seconds=600.0)
JOB = PeriodicTask(
    name="dispatch", kind="maintenance", active=True, timing="every 1 s", last_run_at=AT,
    last_status="completed", last_error=None, next_run_at=AT, late_seconds=None,
)  # fmt: skip
SPENT = BudgetUse(subject="the task a", period="day", share=1.2)
PAUSE = PauseFact(subject="the queue mail", queue="mail", reason="Supplier away.", seconds=90.0)

EACH: dict[str, Facts] = {
    "failure_regressed": Facts(attention=Attention(regressed=1, regressed_seconds=5.0)),
    "bulk_job_stuck": Facts(attention=Attention(stuck_jobs=1, stuck_jobs_seconds=130.0)),
    "executions_silent": Facts(attention=Attention(silent=1, silent_seconds=700.0)),
    "database_unavailable": Facts(database_error="away"),
    "redis_unavailable": Facts(redis_error="away", broker_error="away too"),
    "broker_refused": Facts(broker_error="refused"),
    "no_worker_for_queue": Facts(queues=[replace(QUEUE, workers=0)], workers=[]),
    "queue_old": Facts(queues=[QUEUE], workers=[WORKER]),
    "failure_rate_high": Facts(window=TOTALS),
    "tasks_failing": Facts(attention=Attention(failing_tasks=[FailingTask(name="a", failed=1)])),
    "worker_missed_lease": Facts(workers=[replace(WORKER, status="silent")]),
    "keeper_silent": Facts(periodic=[replace(JOB, late_seconds=61.0)]),
    "maintenance_job_failing": Facts(periodic=[replace(JOB, last_status="failed")]),
    "schedule_late": Facts(
        attention=Attention(late_schedules=[LateSchedule(name="nightly", late_seconds=90.0)])
    ),
    "approval_old": Facts(attention=Attention(approvals=2, oldest_approval_seconds=4_000.0)),
    "budget_spent": Facts(attention=Attention(budgets=[SPENT])),
    "budget_nearly_spent": Facts(attention=Attention(budgets=[replace(SPENT, share=0.8)])),
    "webhook_endpoint_failing": Facts(
        attention=Attention(
            endpoints=[FailingEndpoint(host="a.example", failing_seconds=9.0, paused=True)]
        )
    ),
    "paused": Facts(attention=Attention(pauses=[PAUSE])),
}
"""For each code facts that have this problem and no other one."""


def test_every_code_has_a_section_of_the_runbook_and_facts_that_show_it() -> None:
    assert EACH.keys() == CODES.keys()


@pytest.mark.parametrize("code", sorted(CODES))
def test_each_code_has_facts_that_lead_to_it_alone(code: str) -> None:
    found = problems(EACH[code], LIMITS)
    assert [each.code for each in found] == [code]
    assert found[0].text.endswith(".")
    assert found[0].cure
    assert found[0].link == link(code)


@pytest.mark.parametrize(
    "facts",
    [
        Facts(),
        Facts(queues=[replace(QUEUE, workers=0, oldest_seconds=9.0)], workers=[]),
        Facts(queues=[replace(QUEUE, oldest_seconds=299.0)], workers=[WORKER]),
        Facts(queues=[replace(QUEUE, depth=0, workers=0, oldest_seconds=None)], workers=[]),
        # who listens could not be asked: that is not "nobody"
        Facts(queues=[replace(QUEUE, workers=0, oldest_seconds=200.0)], workers=None),
        # a worker of an older release does not say to which queues it listens
        Facts(
            queues=[replace(QUEUE, workers=0, oldest_seconds=200.0)],
            workers=[replace(WORKER, queues=[])],
        ),
        Facts(queues=[replace(QUEUE, workers=0, paused=True)], workers=[]),
        Facts(window=replace(TOTALS, completed=14)),
        Facts(window=replace(TOTALS, completed=19, failed=1)),
        Facts(window=replace(TOTALS, completed=0, failed=0)),
        # a job that is late while others work is no silent keeper
        Facts(periodic=[replace(JOB, late_seconds=900.0), replace(JOB, name="fold")]),
        Facts(attention=Attention(budgets=[replace(SPENT, share=0.79)])),
        Facts(attention=Attention(approvals=1, oldest_approval_seconds=3_599.0)),
    ],
)
def test_what_is_no_problem(facts: Facts) -> None:
    assert problems(facts, LIMITS) == []


@pytest.mark.requirement("D1")
def test_tasks_of_which_nothing_completes_are_named() -> None:
    window = replace(TOTALS, completed=0, failed=1)
    failing = [FailingTask(name=name, failed=9 - at) for at, name in enumerate("abcde")]
    (one,) = problems(Facts(window=window, attention=Attention(failing_tasks=failing[:1])), LIMITS)
    assert one.text == (
        "No execution of the task a that ended in the last 10 minutes has completed: 9 failures."
    )
    assert "`celeriac executions list --status failed --task a` shows" in one.cure
    assert headline([one]) == one.text
    (all_,) = problems(Facts(window=window, attention=Attention(failing_tasks=failing)), LIMITS)
    assert all_.text.endswith("has completed: a (9), b (8), c (7) and 2 more.")
    assert level_of([all_]) is Level.WARNING


@pytest.mark.requirement("D1")
def test_the_worst_is_first_then_the_oldest_and_the_headline_says_it() -> None:
    facts = Facts(
        queues=[
            replace(QUEUE, queue="young", workers=0, oldest_seconds=30.0, depth=900),
            replace(QUEUE, queue="old", workers=0, oldest_seconds=300.0, depth=1),
            QUEUE,
        ],
        workers=[WORKER],
        attention=Attention(budgets=[SPENT], pauses=[PAUSE]),
    )
    found = problems(facts, LIMITS)
    assert [each.code for each in found] == [
        "no_worker_for_queue", "no_worker_for_queue", "queue_old", "budget_spent", "paused",
    ]  # fmt: skip
    assert "the queue old: 1 execution waits, the oldest for 5 minutes" in found[0].text
    assert level_of(found) is Level.CRITICAL
    assert headline(found) == f"{found[0].text} There are 3 more problems."
    assert level_of(found[-1:]) is Level.WELL
    assert headline(found[-1:]).startswith("All is well. Paused: the queue mail")
    assert headline([]) == "All is well."


@pytest.mark.requirement("D1")
def test_queues_whose_names_somebody_makes_up_neither_grow_a_report_nor_hide_the_rest() -> None:
    live = [
        LiveCount(
            status=Status.PENDING,
            held=None,
            waiting_for=None,
            queue=f"made-up-{number}",
            count=1,
            oldest_seconds=number + 20.0,
        )
        for number in range(3_000)
    ]
    shown = queues(live, [WORKER], None)
    assert len(shown) == MOST_QUEUES
    assert [each.queue for each in shown[:2]] == ["made-up-2999", "made-up-2998"]
    facts = Facts(queues=shown, workers=[WORKER], attention=Attention(budgets=[SPENT]))
    counts = Counter(each.code for each in problems(facts, LIMITS))
    assert counts == {"no_worker_for_queue": 20, "budget_spent": 1}


@pytest.mark.requirement("A23")
def test_each_code_has_a_section_of_the_runbook_in_alphabetical_order() -> None:
    root = Path(__file__).resolve().parents[3]
    page = (root / "docs/runbook.md").read_text(encoding="utf-8")
    titles = re.findall(r"^## (.+)$", page, re.MULTILINE)
    assert titles == sorted(titles)
    assert set(CODES.values()) <= set(titles)
    alerts = (root / "deploy/prometheus/alerts.yml").read_text(encoding="utf-8")
    anchors = {f"docs/runbook.md#{title.lower().replace(' ', '-')}" for title in titles}
    used = {link(code) for code in CODES} | set(re.findall(r"docs/runbook\.md#[a-z-]+", alerts))
    assert anchors == used, "a section that nothing points to, or the reverse"


def test_ages_and_names_are_for_people() -> None:
    assert [age(each) for each in (1, 119, 120, 7_199, 7_200, 172_799, 172_800)] == [
        "1 second", "119 seconds", "2 minutes", "119 minutes", "2 hours", "47 hours", "2 days",
    ]  # fmt: skip
    assert friendly_name("app.tasks.periodic_health_check") == "Periodic Health Check"
    assert friendly_name("weekly-report") == "Weekly Report"
    assert friendly_name("...") == "..."
