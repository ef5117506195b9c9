"""Table of labels, by which executions are found."""

from sqlalchemy import Column, Index, Table, Text, Uuid

from celeriac.db.schema.base import metadata, stored

execution_labels = Table(
    "execution_labels",
    metadata,
    Column("workspace_id", Uuid, primary_key=True),
    Column("key", Text, primary_key=True),
    Column("value", Text, primary_key=True),
    Column("execution_id", Uuid, primary_key=True),
    Index("ix_execution_labels_execution", "execution_id"),
    postgresql_with=stored(dead=10_000),
)
"""One row for each label of an execution; the statement that writes `executions.labels` writes
these.

It is searched across executions, so it is not partitioned (docs/adr/0066).
"""
