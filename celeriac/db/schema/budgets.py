"""Tables of budgets, their windows and reservations, and of usage by day."""

from sqlalchemy import (
    Column,
    Date,
    Index,
    Integer,
    Numeric,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
)
from sqlalchemy.dialects.postgresql import BIGINT

from celeriac.db.schema.base import enum_check, metadata, timestamp, uuid_pk, where
from celeriac.domain.budget_kinds import OnBudget, Period


def _dollars(name: str, *, required: bool = True) -> Column[object]:
    if required:
        return Column(name, Numeric(24, 9), nullable=False, server_default="0")
    return Column(name, Numeric(24, 9))


def _count(name: str) -> Column[object]:
    return Column(name, BIGINT, nullable=False, server_default="0")


budgets = Table(
    "budgets",
    metadata,
    uuid_pk(),
    Column("scope", Text, nullable=False),
    Column("subject_id", Uuid, nullable=False),
    Column("owner_id", Uuid, nullable=False),
    Column("period", Text, nullable=False),
    _dollars("max_cost", required=False),
    Column("max_tokens", BIGINT),
    Column("on_budget", Text, nullable=False),
    timestamp("created_at", now=True),
    timestamp("updated_at", now=True),
    enum_check("period", Period),
    enum_check("on_budget", OnBudget),
    UniqueConstraint("subject_id", "period"),
    Index(None, "owner_id", "id"),
)
"""Budgets of tasks and users. An execution's own budget is in its task or its options."""

budget_windows = Table(
    "budget_windows",
    metadata,
    Column("budget_id", Uuid, primary_key=True),
    Column("window_key", Text, primary_key=True),
    _dollars("spent_cost"),
    _count("spent_tokens"),
    _dollars("reserved_cost"),
    _count("reserved_tokens"),
    _dollars("extra_cost"),
    _count("extra_tokens"),
    Column("raised", Integer, nullable=False, server_default="0"),
    postgresql_with={"fillfactor": "50"},
)
"""One row for each budget and day, month or execution. Every reservation locks it."""

budget_reservations = Table(
    "budget_reservations",
    metadata,
    uuid_pk(),
    Column("budget_id", Uuid, primary_key=True),
    Column("window_key", Text, nullable=False),
    Column("execution_id", Uuid, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("cost", Numeric(24, 9), nullable=False),
    Column("tokens", BIGINT, nullable=False),
    timestamp("created_at", now=True),
    timestamp("released_at"),
    Index(None, "released_at", **where("released_at IS NOT NULL")),
)
"""Reservations of running model calls. The keeper finds orphaned ones by their attempt.

A row with `released_at` reserves nothing. It is kept for a while, so that a repeated charge under
its id has no effect.
"""

usage_days = Table(
    "usage_days",
    metadata,
    Column("owner_id", Uuid, primary_key=True),
    Column("day", Date, primary_key=True),
    Column("task_id", Uuid, primary_key=True),
    Column("provider", Text, primary_key=True),
    Column("model", Text, primary_key=True),
    _count("calls"),
    _count("unpriced_calls"),
    _count("input_tokens"),
    _count("output_tokens"),
    _count("cached_tokens"),
    _dollars("cost"),
    Index(None, "task_id", "day"),
    Index(None, "day"),
)
"""Totals of model calls by day (UTC). They are kept when executions are deleted."""
