"""The table of maintenance jobs."""

from sqlalchemy import BigInteger, Column, Double, Integer, Table, Text

from celeriac.db.schema.base import metadata, stored, timestamp

maintenance_jobs = Table(
    "maintenance_jobs",
    metadata,
    Column("name", Text, primary_key=True),
    Column("host", Text, nullable=False),
    Column("interval_seconds", Double, nullable=False),
    timestamp("started_at", now=True),
    timestamp("ended_at", now=True),
    timestamp("next_at", now=True),
    Column("done", BigInteger, nullable=False),
    Column("failures", Integer, nullable=False),
    Column("error", Text),
    timestamp("succeeded_at"),
    # one row for each job, updated every minute in columns that no index has
    postgresql_with=stored(dead=1_000, fill=50),
)
"""The latest run of each maintenance job, by whichever beat ran it."""
