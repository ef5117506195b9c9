"""The tables, one file per aggregate."""

from celeriac.db.models.accounts import api_keys, audit_logs, audit_seals, users
from celeriac.db.models.base import metadata
from celeriac.db.models.budgets import (
    budget_reservations,
    budget_windows,
    budgets,
    usage_days,
)
from celeriac.db.models.cassettes import cassettes
from celeriac.db.models.catalog import agent_versions, agents, task_versions, tasks
from celeriac.db.models.executions import events, executions, idempotency_keys, model_calls
from celeriac.db.models.reports import reports
from celeriac.db.models.sessions import approvals, sessions
from celeriac.db.models.workers import workers

__all__ = [
    "agent_versions",
    "agents",
    "api_keys",
    "approvals",
    "audit_logs",
    "audit_seals",
    "budget_reservations",
    "budget_windows",
    "budgets",
    "cassettes",
    "events",
    "executions",
    "idempotency_keys",
    "metadata",
    "model_calls",
    "reports",
    "sessions",
    "task_versions",
    "tasks",
    "usage_days",
    "users",
    "workers",
]
