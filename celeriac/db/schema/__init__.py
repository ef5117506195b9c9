"""The tables, one file for each aggregate."""

from celeriac.db.schema.accounts import api_keys, audit_logs, audit_seals, users
from celeriac.db.schema.base import metadata
from celeriac.db.schema.budgets import budget_reservations, budget_windows, budgets, usage_days
from celeriac.db.schema.catalog import agent_versions, agents, task_versions, tasks
from celeriac.db.schema.executions import events, executions, idempotency_keys, model_calls, workers
from celeriac.db.schema.records import cassettes, reports
from celeriac.db.schema.sessions import approvals, sessions

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
