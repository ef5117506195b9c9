"""Table of the sums of plain Celery tasks that ended (docs/adr/0071)."""

from sqlalchemy import Column, Table, Text

from celeriac.db.schema.base import count, enum_check, metadata, stored, timestamp
from celeriac.domain.rollups import Grain

plain_task_sums = Table(
    "plain_task_sums",
    metadata,
    Column("grain", Text, primary_key=True),
    Column("start", timestamp("start").type, primary_key=True),
    # empty: of all plain tasks; others have sums of all time only
    Column("name", Text, primary_key=True),
    count("completed"),
    count("failed"),
    count("cancelled"),
    enum_check("grain", Grain),
    # The rows of now are updated every few seconds, in columns that no index has.
    postgresql_with=stored(dead=1_000, fill=70),
)
"""Sums by minute, hour, day and of all time; the rows of all time start at the epoch."""
