"""Tables of budgets."""

from sqlalchemy import (
    BigInteger,
    Column,
    Index,
    Integer,
    Numeric,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
)

from celeriac.db.schema.base import (
    count,
    dollars,
    enum_check,
    metadata,
    stored,
    table_of_ids,
    timestamp,
    where,
)
from celeriac.domain.budget_kinds import OnBudget, Period

budgets = table_of_ids(
    "budgets",
    Column("scope", Text, nullable=False),
    Column("subject_id", Uuid, nullable=False),
    Column("workspace_id", Uuid, nullable=False),
    Column("owner_id", Uuid, nullable=False),
    Column("period", Text, nullable=False),
    dollars("max_cost", required=False),
    Column("max_tokens", BigInteger),
    Column("on_budget", Text, nullable=False),
    timestamp("created_at", now=True),
    timestamp("updated_at", now=True),
    enum_check("period", Period),
    enum_check("on_budget", OnBudget),
    UniqueConstraint("subject_id", "period"),
    Index(None, "workspace_id", "id"),
)
"""Budgets of tasks and users. An execution's own budget is in its task or its options."""

budget_windows = Table(
    "budget_windows",
    metadata,
    Column("budget_id", Uuid, primary_key=True),
    Column("window_key", Text, primary_key=True),
    dollars("spent_cost"),
    count("spent_tokens"),
    dollars("reserved_cost"),
    count("reserved_tokens"),
    dollars("extra_cost"),
    count("extra_tokens"),
    Column("raised", Integer, nullable=False, server_default="0"),
    # Each call under a budget updates its few rows twice; no index has what changes.
    postgresql_with=stored(dead=1_000, share=0.01, fill=50),
)
"""One row for each budget and day, month or execution. Every reservation locks it."""

budget_reservations = table_of_ids(
    "budget_reservations",
    Column("budget_id", Uuid, primary_key=True),
    Column("window_key", Text, nullable=False),
    Column("execution_id", Uuid, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("cost", Numeric(24, 9), nullable=False),
    Column("tokens", BigInteger, nullable=False),
    timestamp("created_at", now=True),
    timestamp("released_at"),
    Index(None, "released_at", **where("released_at IS NOT NULL")),
    # A queue: each row is inserted, updated and deleted within the hour.
    postgresql_with=stored(dead=5_000, share=0.01),
)
"""Reservations of running model calls. The keeper finds orphaned ones by their attempt.

A row with `released_at` reserves nothing. It is kept for a while, so that a repeated charge under
its id has no effect.
"""
