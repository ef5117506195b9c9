"""The tables, by column. `celeriac/db/migrations` makes them.

Each module has the tables of one column; `metadata` has all of them.
"""

from celeriac.db.schema import (
    accounts,
    approvals,
    budgets,
    bulk_jobs,
    cassettes,
    catalog,
    celery_calls,
    executions,
    failures,
    hooks,
    labels,
    limits,
    maintenance,
    pauses,
    reports,
    rollups,
    schedules,
    sessions,
    steps,
    usage,
    webhooks,
    workers,
    workflows,
)
from celeriac.db.schema.base import metadata

__all__ = [
    "accounts",
    "approvals",
    "budgets",
    "bulk_jobs",
    "cassettes",
    "catalog",
    "celery_calls",
    "executions",
    "failures",
    "hooks",
    "labels",
    "limits",
    "maintenance",
    "metadata",
    "pauses",
    "reports",
    "rollups",
    "schedules",
    "sessions",
    "steps",
    "usage",
    "webhooks",
    "workers",
    "workflows",
]
