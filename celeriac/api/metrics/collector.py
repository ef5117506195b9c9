"""Figures as families of Prometheus metrics: the same from every API process.

Nothing is counted here: the totals are sums in the database (docs/adr/0061). Series of tasks have
no host names. Every name and label is part of the interface: `deploy/prometheus` and
`deploy/grafana` use them.
"""

import math
from collections.abc import Iterator, Sequence

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from celeriac.domain.executions.states import Status
from celeriac.domain.failure_states import FailureState
from celeriac.domain.metrics import DatabaseFigures, DiskFigures, Figures, RedisFigures
from celeriac.domain.plain_tasks import PlainEnd
from celeriac.domain.rollups import BUCKETS, Histogram, upper_bound
from celeriac.version import __version__

_TASK = ("workspace", "task", "queue")
_COUNTERS = {
    "retries": ("celeriac_attempts_retried", "Retries of executions that ended."),
    "crashes": ("celeriac_leases_lost", "Attempts of ended executions that lost their worker."),
    "model_calls": ("celeriac_model_calls", "Model calls of executions that ended."),
    "cached_tokens": ("celeriac_model_cached_tokens", "Their input tokens from providers' caches."),
    "denied_tools": ("celeriac_tools_denied", "Calls of tools that were not allowed."),
    "no_ops": ("celeriac_executions_no_op", "Executions that completed and had done nothing."),
}
_OUTCOMES = ("completed", "failed", "cancelled")
_HELD = (
    *((Status.PENDING.value, reason) for reason in ("delayed", "limit", "paused")),
    *((Status.WAITING.value, reason) for reason in ("budget", "provider_limit", "sleep")),
)
"""What executions wait for that are in no queue: these series are there in any case."""

_EVERY = 4
"""Every fourth bucket is shown: powers of two."""


class FiguresCollector(Collector):
    """Renders figures; made for one request."""

    def __init__(self, figures: Figures) -> None:
        self._figures = figures

    def collect(self) -> Iterator[Metric]:
        """Yield the families. Those of a missing source are left out, but for its `_up`."""
        figures = self._figures
        yield GaugeMetricFamily(
            "celeriac_database_up", "1 if PostgreSQL answers.", figures.database is not None
        )
        yield GaugeMetricFamily(
            "celeriac_redis_up", "1 if Redis answers.", figures.redis is not None
        )
        info = GaugeMetricFamily("celeriac_build_info", "The release.", labels=("version",))
        info.add_metric((__version__,), 1)
        yield info
        if figures.database is not None:
            yield from _tasks(figures.database)
            yield from _durations(figures.database)
            yield _plain_tasks(figures.database)
            yield from _models(figures.database)
            yield from _queues(figures.database)
            yield _live(figures.database)
            yield from _workers(figures.database)
            yield from _others(figures.database)
        if figures.redis is not None:
            yield from _redis(figures.redis)
        if figures.disks is not None:
            yield from _disks(figures.disks)


def _tasks(found: DatabaseFigures) -> Iterator[Metric]:
    ended = CounterMetricFamily(
        "celeriac_executions", "Executions that ended.", labels=(*_TASK, "status")
    )
    cost = CounterMetricFamily(
        "celeriac_model_cost_dollars", "Cost of executions that ended.", labels=_TASK
    )
    tokens = CounterMetricFamily(
        "celeriac_model_tokens", "Tokens of executions that ended.", labels=(*_TASK, "type")
    )
    counters = {
        name: CounterMetricFamily(title, help_text, labels=_TASK)
        for name, (title, help_text) in _COUNTERS.items()
    }
    for task in found.tasks:
        labels = (task.workspace, task.task, task.queue)
        for status in _OUTCOMES:
            ended.add_metric((*labels, status), task.counts[status])
        cost.add_metric(labels, task.cost)
        for kind in ("input", "output"):
            tokens.add_metric((*labels, kind), task.counts[f"{kind}_tokens"])
        for name, family in counters.items():
            family.add_metric(labels, task.counts[name])
    yield from (ended, cost, tokens, *counters.values())


def _plain_tasks(found: DatabaseFigures) -> Metric:
    ended = CounterMetricFamily(
        "celeriac_plain_tasks", "Plain Celery tasks that ended.", labels=("task", "status")
    )
    for name, counts in found.plain_tasks.items():
        for end in PlainEnd:
            ended.add_metric((name, end.value), getattr(counts, end.value))
    return ended


def _durations(found: DatabaseFigures) -> Iterator[Metric]:
    wait = HistogramMetricFamily(
        "celeriac_execution_wait_seconds",
        "From when an ended execution could begin until it began.",
        labels=("queue",),
    )
    run = HistogramMetricFamily(
        "celeriac_execution_run_seconds",
        "From the begin of an ended execution to its end.",
        labels=("queue",),
    )
    for queue in found.durations:
        wait.add_metric((queue.queue,), _buckets(queue.wait), queue.wait_seconds)
        run.add_metric((queue.queue,), _buckets(queue.run), queue.run_seconds)
    yield from (wait, run)


def _models(found: DatabaseFigures) -> Iterator[Metric]:
    calls = HistogramMetricFamily(
        "celeriac_model_call_seconds",
        "How long model calls took, of the fifty models that were called first.",
        labels=("provider", "model"),
    )
    for each in found.models:
        calls.add_metric((each.provider, each.model), _buckets(each.calls), each.seconds)
    yield calls


def _live(found: DatabaseFigures) -> Metric:
    family = GaugeMetricFamily(
        "celeriac_executions_live",
        "Executions that have not ended, by what they wait for; up to 10,000 of each kind.",
        labels=("status", "waiting_for"),
    )
    counts = dict.fromkeys(_HELD, 0) | dict(found.held)
    counts[Status.PENDING, "due"] = sum(each.due for each in found.queues)
    counts[Status.QUEUED, "sent"] = sum(each.sent for each in found.queues)
    counts[Status.RUNNING, ""] = sum(each.running for each in found.queues)
    for (status, reason), count in sorted(counts.items()):
        family.add_metric((status, reason), count)
    return family


def _buckets(histogram: Histogram) -> list[tuple[str, float]]:
    shown = [
        (f"{upper_bound(bucket):.10g}", float(histogram.up_to(bucket)))
        for bucket in range(0, BUCKETS - 1, _EVERY)
    ]
    return [*shown, ("+Inf", float(histogram.count))]


def _queues(found: DatabaseFigures) -> Iterator[Metric]:
    families = {
        name: GaugeMetricFamily(f"celeriac_queue_{name}", help_text, labels=("queue",))
        for name, help_text in {
            "backlog": "Executions that could run and don't, up to 20,000.",
            "running": "Executions that run, up to 10,000 in all.",
            "silent": "Those of them that have had no event for ten minutes.",
            "oldest_age_seconds": "How long the oldest of the backlog has waited.",
            "paused": "1 while the queue or the system is paused.",
            "workers": "Slots of live workers that consume the queue.",
        }.items()
    }
    everywhere = found.slots.get(None, 0)
    for queue in found.queues:
        values = {
            "backlog": queue.due + queue.sent,
            "running": queue.running,
            "silent": queue.silent,
            "oldest_age_seconds": queue.oldest_age_seconds,
            "paused": queue.paused,
            "workers": found.slots.get(queue.queue, 0) + everywhere,
        }
        for name, value in values.items():
            families[name].add_metric((queue.queue,), value)
    yield from families.values()


def _workers(found: DatabaseFigures) -> Iterator[Metric]:
    totals: dict[str, list[float]] = {}
    for each in found.workers:
        values = (each.slots, each.running, each.cpu_percent / 100, each.memory_bytes)
        before = totals.get(each.hostname, [0.0] * len(values))
        totals[each.hostname] = [a + b for a, b in zip(before, values, strict=True)]
    names = {
        "up": "1 for a live worker; the series ends with it.",
        "slots": "Executions that it runs at the same time.",
        "busy": "Executions that it runs.",
        "cpu_ratio": "Processor use in cores.",
        "memory_bytes": "Memory of its processes.",
    }
    for number, (name, help_text) in enumerate(names.items()):
        family = GaugeMetricFamily(f"celeriac_worker_{name}", help_text, labels=("worker",))
        for worker, sums in sorted(totals.items()):
            family.add_metric((worker,), (1.0, *sums)[number])
        yield family


def _others(found: DatabaseFigures) -> Iterator[Metric]:
    for name, help_text, value in (
        ("submitted_last_minute", "Executions of the last minute, up to 10,000.", found.submitted),
        ("approvals_open", "Questions without an answer, up to 10,000.", found.approvals),
        ("approval_oldest_age_seconds", "Age of the oldest.", found.approval_age_seconds),
        (
            "schedule_late_seconds",
            "How long the schedule that is due longest is overdue.",
            found.schedule_late_seconds,
        ),
        (
            "keeper_behind_seconds",
            "Age of the oldest end that the keeper has not counted yet.",
            found.unfolded_seconds,
        ),
        (
            "keeper_last_round_timestamp_seconds",
            "When a job of the keeper ended last, in Unix seconds; 0 before the first.",
            found.keeper.last_round,
        ),
    ):
        yield GaugeMetricFamily(f"celeriac_{name}", help_text, value)
    groups = GaugeMetricFamily(
        "celeriac_failure_groups",
        "Groups of failures by state, of the 2,000 that have failed last.",
        labels=("state",),
    )
    for state in FailureState:
        groups.add_metric((state.value,), found.failure_groups.get(state.value, 0))
    yield groups
    budgets = GaugeMetricFamily(
        "celeriac_budget_spent_ratio",
        "Spent share of a budget in its day or month, of the twenty with the largest.",
        labels=("workspace", "scope", "subject", "period"),
    )
    for each in found.budgets:
        share = each.share if math.isfinite(each.share) else 0.0
        budgets.add_metric((each.workspace, each.scope, each.subject, each.period), share)
    yield budgets
    jobs = GaugeMetricFamily(
        "celeriac_keeper_job_failures",
        "How often in a row a job of the keeper has failed.",
        labels=("job",),
    )
    for job, failures in found.keeper.failures.items():
        jobs.add_metric((job,), failures)
    yield jobs


def _redis(found: RedisFigures) -> Iterator[Metric]:
    for name, help_text, value in (
        ("memory_bytes", "Memory that Redis uses.", found.memory_bytes),
        ("memory_limit_bytes", "Its limit; 0 without one.", found.memory_limit_bytes),
        ("connections", "Clients that are connected to Redis.", found.connections),
        ("command_seconds", "Time that one PING took.", found.seconds),
    ):
        yield GaugeMetricFamily(f"celeriac_redis_{name}", help_text, value)


def _disks(found: Sequence[DiskFigures]) -> Iterator[Metric]:
    size = GaugeMetricFamily(
        "celeriac_disk_size_bytes",
        "Size of the file system of a directory on this machine.",
        labels=("directory",),
    )
    free = GaugeMetricFamily(
        "celeriac_disk_free_bytes", "What is free of it.", labels=("directory",)
    )
    for each in found:
        size.add_metric((each.directory,), each.size_bytes)
        free.add_metric((each.directory,), each.free_bytes)
    yield from (size, free)
